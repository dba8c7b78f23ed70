//! Counts and logs requests whose client disconnects before the response.

use std::sync::Arc;

use axum::http::{HeaderValue, Request, Uri};
use opentelemetry::trace::{SpanContext, TraceId};
use tower_http::on_early_drop::{OnDropCallback, OnFutureDrop};

use crate::{
    config::log::RequestLog,
    metrics::counters::{CLIENT_CLOSED_REQUEST, TrackedRequest},
    server::{observe::track, request_id::X_REQUEST_ID, request_log::RequestLine},
    state::ServerState,
};

/// Creates a [`ClientDisconnect`] for each request. It counts the request with status 499.
#[derive(Debug, Clone)]
pub(crate) struct OnClientDisconnect(Arc<ServerState>);

impl OnClientDisconnect {
    pub(crate) fn new(state: &Arc<ServerState>) -> Self {
        Self(Arc::clone(state))
    }
}

impl<B> OnFutureDrop<B> for OnClientDisconnect {
    type Callback = ClientDisconnect;

    fn make(&mut self, request: &Request<B>) -> ClientDisconnect {
        let state = Arc::clone(&self.0);
        let tracked = track(request);
        let is_logged = !tracked.is_probe && state.request_log == RequestLog::All;
        let line = is_logged.then(|| LineParts {
            id: request.headers().get(X_REQUEST_ID).cloned(),
            unmatched: (!tracked.is_matched).then(|| request.uri().clone()),
            trace: request.extensions().get().map(SpanContext::trace_id),
        });
        ClientDisconnect {
            state,
            request: tracked,
            line,
        }
    }
}

/// Acts when a request is dropped before its response.
pub(crate) struct ClientDisconnect {
    state: Arc<ServerState>,
    request: TrackedRequest,
    /// The log line, if requests are logged.
    line: Option<LineParts>,
}

/// Parts of the log line that are not in [`TrackedRequest`].
struct LineParts {
    id: Option<HeaderValue>,
    unmatched: Option<Uri>,
    trace: Option<TraceId>,
}

impl OnDropCallback for ClientDisconnect {
    fn on_drop(self) {
        let took = self.state.metrics.client_disconnected(&self.request);
        if let Some(line) = self.line {
            RequestLine {
                id: line.id.as_ref(),
                method: self.request.method,
                route: &self.request.route,
                unmatched: line.unmatched.as_ref(),
                status: CLIENT_CLOSED_REQUEST,
                took,
                times: None,
                error: None,
                reason: None,
                trace: line.trace,
            }
            .log();
        }
    }
}
