use std::time::Duration;

use axum::http::{HeaderValue, Uri};
use opentelemetry::trace::TraceId;
use tracing::field;

use crate::{metrics::counters::CLIENT_CLOSED_REQUEST, scheduler::stage_times::StageTimes};

/// How much of an unknown path is logged.
const LONGEST_PATH: usize = 256;

/// The log line of one request.
pub(crate) struct RequestLine<'a> {
    pub(crate) id: Option<&'a HeaderValue>,
    pub(crate) method: &'static str,
    /// The route.
    pub(crate) route: &'a str,
    /// The URI, if the request matches no route.
    pub(crate) unmatched: Option<&'a Uri>,
    pub(crate) status: u16,
    pub(crate) took: Duration,
    pub(crate) times: Option<StageTimes>,
    /// The kind of error.
    pub(crate) error: Option<&'static str>,
    /// Why the server failed.
    pub(crate) reason: Option<&'a str>,
    pub(crate) trace: Option<TraceId>,
}

impl RequestLine<'_> {
    pub(crate) fn log(&self) {
        macro_rules! log {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    request_id = self.id.and_then(|id| id.to_str().ok()),
                    method = self.method,
                    route = self.route,
                    path = self.unmatched.map(beginning),
                    status = self.status,
                    latency_ms = milliseconds(self.took),
                    queue_ms = self.times.map(|times| milliseconds(times.queue)),
                    tokenize_ms = self.times.map(|times| milliseconds(times.tokenize)),
                    inference_ms = self.times.map(|times| milliseconds(times.inference)),
                    error = self.error,
                    reason = self.reason,
                    trace_id = self.trace.map(field::display),
                    $message
                )
            };
        }
        match self.status {
            500.. => log!(error, "request failed"),
            CLIENT_CLOSED_REQUEST => log!(info, "client left"),
            _ => log!(info, "request"),
        }
    }
}

/// The path without its query, which may contain private data, and at most [`LONGEST_PATH`] bytes of it.
fn beginning(uri: &Uri) -> &str {
    let path = uri.path();
    &path[..path.floor_char_boundary(LONGEST_PATH)]
}

/// Milliseconds with three digits after the point.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_path_is_short_and_has_no_query() {
        assert_eq!(beginning(&Uri::from_static("/a/b?c=d")), "/a/b");
        let long = format!("/{}", "a".repeat(5000));
        assert_eq!(beginning(&long.parse().unwrap()), &long[..LONGEST_PATH]);
    }
}
