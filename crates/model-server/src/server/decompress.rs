use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{self, HeaderMap, HeaderValue, header},
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
        if !request.headers().contains_key(header::CONTENT_ENCODING) {
            return Either::Left(self.0.call(request));
        }
        let (mut head, body) = request.into_parts();
        let encoding = joined(&head.headers);
        match coding(&encoding) {
            // The layer below compares the whole header with the name of a coding.
            Coding::Known(name) => {
                let name = HeaderValue::from_static(name);
                head.headers.insert(header::CONTENT_ENCODING, name);
            }
            Coding::Identity => {
                head.headers.remove(header::CONTENT_ENCODING);
                return Either::Left(self.0.call(Request::from_parts(head, body)));
            }
            Coding::Unknown => {}
        }
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

/// How a body is compressed.
enum Coding {
    Known(&'static str),
    Identity,
    Unknown,
}

/// Returns the value of `Content-Encoding`. Several lines of a header are one list.
fn joined(headers: &HeaderMap) -> String {
    let lines = headers.get_all(header::CONTENT_ENCODING).into_iter();
    let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()));
    lines.collect::<Vec<_>>().join(", ")
}

/// Reads a list of codings (RFC 9110, section 8.4). Names have no case, `x-gzip` means `gzip`, and empty elements and
/// `identity` mean nothing.
fn coding(encoding: &str) -> Coding {
    let names = encoding.split(',').map(str::trim);
    let mut names = names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("identity"));
    match (names.next(), names.next()) {
        (None, _) => Coding::Identity,
        (Some(name), None) => match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Coding::Known("gzip"),
            "deflate" => Coding::Known("deflate"),
            _ => Coding::Unknown,
        },
        // No client compresses twice.
        (Some(_), Some(_)) => Coding::Unknown,
    }
}

/// The body as the client sends it, before decompression. It is in the extensions of the request for code that
/// discards the body.
#[derive(Debug, Clone)]
pub(crate) struct SentBody {
    body: Arc<Mutex<Body>>,
    encoding: String,
}

impl SentBody {
    /// The value of `Content-Encoding`.
    pub(crate) fn encoding(&self) -> &str {
        &self.encoding
    }

    /// Whether the encoding is unsupported.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(coding(&self.encoding), Coding::Unknown)
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
