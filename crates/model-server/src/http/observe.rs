use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use tower_http::{
    classify::{ServerErrorsAsFailures, SharedClassifier},
    trace::TraceLayer,
};
use tracing::{Span, error, error_span};

use super::error::Failure;
use crate::state::ServerState;

/// Counts a request and what became of it.
pub(super) async fn count(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    let guard = state.metrics.follow_request();
    let response = next.run(request).await;
    guard.answered(response.status());
    response
}

type TraceFailures = TraceLayer<
    SharedClassifier<ServerErrorsAsFailures>,
    fn(&Request) -> Span,
    (),
    fn(&Response, Duration, &Span),
    (),
    (),
    (),
>;

/// Logs one line per failed request, and none for the others: the router keeps the access log.
///
/// An unhealthy answer to a health check is no failed request; its cause was logged.
pub(super) fn trace_failures() -> TraceFailures {
    TraceLayer::new_for_http()
        .make_span_with(span_of as fn(&Request) -> Span)
        .on_request(())
        .on_response(log_failure as fn(&Response, Duration, &Span))
        .on_body_chunk(())
        .on_eos(())
        .on_failure(())
}

fn span_of(request: &Request) -> Span {
    error_span!("request", method = %request.method(), path = request.uri().path())
}

fn log_failure(response: &Response, latency: Duration, _: &Span) {
    if let Some(Failure(reason)) = response.extensions().get() {
        let status = response.status().as_u16();
        error!(status, ?latency, reason, "request failed");
    }
}
