use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{self, HeaderValue, header},
    response::Response,
};
use futures_util::future::{BoxFuture, Either};
use hyper::body::Frame;
use tower::{Layer, Service, util::MapRequest};
use tower_http::decompression::{DecompressionBody, RequestDecompression};

/// Adds tower-http's [`RequestDecompression`] for requests with a `Content-Encoding`.
///
/// Other requests bypass it, because it would box their bodies and responses once more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DecompressLayer;

impl<S> Layer<S> for DecompressLayer {
    type Service = Decompress<S>;

    fn layer(&self, inner: S) -> Decompress<S> {
        Decompress(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Decompress<S>(S);

impl<S> Service<Request> for Decompress<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Some(encoding) = request.headers().get(header::CONTENT_ENCODING).cloned() else {
            return Either::Left(self.0.call(request));
        };
        let (mut head, body) = request.into_parts();
        let body = SentBody {
            body: Arc::new(Mutex::new(body)),
            encoding,
        };
        head.extensions.insert(body.clone());
        let erased = |request: http::Request<DecompressionBody<SentBody>>| request.map(Body::new);
        let inner = MapRequest::new(self.0.clone(), erased);
        // Unknown encodings are refused where the body is read, because the rest must be discarded.
        let mut service = RequestDecompression::new(inner).pass_through_unaccepted(true);
        let answering = service.call(http::Request::from_parts(head, body));
        Either::Right(Box::pin(async { Ok(answering.await?.map(Body::new)) }))
    }
}

/// The body as the client sends it, before decompression. It is in the extensions of the request for code that
/// discards the body.
#[derive(Debug, Clone)]
pub(crate) struct SentBody {
    body: Arc<Mutex<Body>>,
    encoding: HeaderValue,
}

impl SentBody {
    /// The value of `Content-Encoding`.
    pub(crate) fn encoding(&self) -> String {
        String::from_utf8_lossy(self.encoding.as_bytes()).into_owned()
    }

    /// Whether the encoding is unsupported: then decompression has left the header in place.
    pub(crate) fn is_unknown(&self, request: &Request) -> bool {
        self.encoding != "identity" && request.headers().contains_key(header::CONTENT_ENCODING)
    }
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.body.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }
}
