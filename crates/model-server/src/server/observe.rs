//! Records each request: metrics, a log line, and a span.
//!
//! tower-http's tracing layer opens a span before the response is known. This layer creates the span
//! afterwards, and only if traces are on.

use std::{
    convert::Infallible,
    fmt::Write as _,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderName, HeaderValue, StatusCode, Uri, header},
    response::Response,
};
use opentelemetry::trace::SpanContext;
use tower::{Layer, Service};

use crate::{
    api::{body::ExpectedBody, error::ResponseDetails},
    config::log::RequestLog,
    metrics::counters::TrackedRequest,
    scheduler::stage_times::StageTimes,
    server::{
        request_id::X_REQUEST_ID,
        request_log::{RequestLine, milliseconds},
    },
    state::ServerState,
    telemetry::{trace_context::caller_span, tracer::FinishedRequest},
};

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// The headers that name the release, for clients and for logs that do not read bodies.
const MODEL_VERSION: HeaderName = HeaderName::from_static("x-model-version");
const MODEL_DIGEST: HeaderName = HeaderName::from_static("x-model-digest");

/// Records metrics, log line, and span of each response, and adds the headers that every response has.
/// Requests whose client disconnects are recorded by [`crate::server::client_disconnect`].
#[derive(Debug, Clone)]
pub(crate) struct ObserveLayer(Arc<ServerState>);

impl ObserveLayer {
    pub(crate) fn new(state: &Arc<ServerState>) -> Self {
        Self(Arc::clone(state))
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe {
            inner,
            state: Arc::clone(&self.0),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    state: Arc<ServerState>,
}

impl<S, B> Service<Request> for Observe<S>
where
    S: Service<Request, Response = Response<B>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<B>;
    type Error = Infallible;
    type Future = ObserveFuture<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let observed = ObservedRequest::new(Arc::clone(&self.state), &request);
        // For the layer that logs a client that disconnects.
        if let Some(parent) = &observed.parent {
            request.extensions_mut().insert(parent.clone());
        }
        if let Some(expected_body) = &observed.expected_body {
            request.extensions_mut().insert(expected_body.clone());
        }
        ObserveFuture {
            observed,
            inner: self.inner.call(request),
        }
    }
}

/// A request on its way through the layers below.
pub(crate) struct ObserveFuture<F> {
    observed: ObservedRequest,
    inner: F,
}

impl<F, B> Future for ObserveFuture<F>
where
    F: Future<Output = Result<Response<B>, Infallible>> + Unpin,
{
    type Output = Result<Response<B>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = ready!(Pin::new(&mut self.inner).poll(context))?;
        self.observed.add_headers(&mut response);
        self.observed.answered(&mut response);
        Poll::Ready(Ok(response))
    }
}

struct ObservedRequest {
    state: Arc<ServerState>,
    request: TrackedRequest,
    /// Set if the client waits for `100 Continue` before it sends the body.
    expected_body: Option<ExpectedBody>,
    /// The caller's span.
    parent: Option<SpanContext>,
    /// Set if traces are on.
    traced: Option<Box<Traced>>,
    /// The URI, if the request matches no route.
    unmatched: Option<Uri>,
}

/// What only a span needs.
struct Traced {
    began: SystemTime,
    uri: Uri,
}

/// Returns what the counters need of a request.
pub(crate) fn track<B>(request: &axum::http::Request<B>) -> TrackedRequest {
    let path = request.extensions().get::<MatchedPath>();
    TrackedRequest::new(path.map(MatchedPath::as_str), request.method())
}

impl ObservedRequest {
    fn new(state: Arc<ServerState>, request: &Request) -> Self {
        let tracked = track(request);
        state.metrics.arrived(&tracked);
        let traces = state.telemetry.is_some() && !tracked.is_probe;
        Self {
            state,
            expected_body: ExpectedBody::of(request),
            parent: caller_span(request.headers()),
            traced: traces.then(|| {
                Box::new(Traced {
                    began: SystemTime::now(),
                    uri: request.uri().clone(),
                })
            }),
            unmatched: (!tracked.is_matched).then(|| request.uri().clone()),
            request: tracked,
        }
    }

    /// Names the release, as soon as it is loaded, and says whether the connection will close.
    fn add_headers<B>(&self, response: &mut Response<B>) {
        let headers = response.headers_mut();
        // Both or neither: a version without its digest would look like another release.
        let serving = self.state.serving.get();
        if let Some([version, digest]) = serving.and_then(|it| it.release_headers.as_ref()) {
            headers.insert(MODEL_VERSION, version.clone());
            headers.insert(MODEL_DIGEST, digest.clone());
        }
        // A draining server must not get the client's next request. A client that waited in vain for `100 Continue`
        // may send the body, or the next request: the server cannot tell which.
        let is_body_unread = self
            .expected_body
            .as_ref()
            .is_some_and(ExpectedBody::is_skipped);
        if self.state.phase.is_draining() || is_body_unread {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }

    fn answered<B>(&self, response: &mut Response<B>) {
        let status = response.status();
        let details = response.extensions().get::<ResponseDetails>();
        let times = details.and_then(|it| it.times);
        let error = details.and_then(|it| it.error);
        let metrics = &self.state.metrics;
        let took = metrics.answered(&self.request, status, error, times);
        let route = &*self.request.route;

        let parts = self.state.telemetry.as_ref().zip(self.traced.as_deref());
        let trace = parts.map(|(telemetry, traced)| {
            telemetry.record(&FinishedRequest {
                parent: self.parent.as_ref(),
                method: self.request.method,
                route: self.request.is_matched.then_some(route),
                uri: &traced.uri,
                status,
                error,
                began: traced.began,
                took,
                times,
            })
        });
        if self.has_line(status) {
            RequestLine {
                id: response.headers().get(X_REQUEST_ID),
                method: self.request.method,
                route,
                unmatched: self.unmatched.as_ref(),
                status: status.as_u16(),
                took,
                times,
                error,
                reason: details.and_then(|it| it.failure.as_deref()),
                trace: trace.or(self.parent.as_ref().map(SpanContext::trace_id)),
            }
            .log();
        }
        if let Some(value) = times.and_then(server_timing) {
            response.headers_mut().insert(SERVER_TIMING, value);
        }
    }

    /// Whether a response is logged. Health checks and scrapes are not: they repeat all the time, and the cause
    /// of an unhealthy server has its own log line.
    fn has_line(&self, status: StatusCode) -> bool {
        let is_probe = self.request.is_probe;
        if status.is_server_error() {
            return !(is_probe && status == StatusCode::SERVICE_UNAVAILABLE);
        }
        !is_probe && self.state.request_log == RequestLog::All
    }
}

/// The value of `Server-Timing`, which browsers and load generators display.
fn server_timing(times: StageTimes) -> Option<HeaderValue> {
    let mut value = String::with_capacity(64);
    write!(
        value,
        "queue;dur={}, tokenize;dur={}, inference;dur={}",
        milliseconds(times.queue),
        milliseconds(times.tokenize),
        milliseconds(times.inference),
    )
    .ok()?;
    HeaderValue::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn server_timing_is_in_milliseconds() {
        let value = server_timing(StageTimes {
            queue: Duration::from_micros(1_250),
            tokenize: Duration::from_nanos(80_400),
            inference: Duration::from_secs(2),
        });
        let expected = "queue;dur=1.25, tokenize;dur=0.08, inference;dur=2000";
        assert_eq!(value.unwrap(), expected);
    }
}
