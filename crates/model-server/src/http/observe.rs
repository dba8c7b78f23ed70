//! What is kept of a request: counters, a line in the log, and a span.

use std::{
    fmt::Write as _,
    mem,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, StatusCode, Uri},
    middleware::Next,
    response::Response,
};
use futures_util::FutureExt as _;
use tracing::field;

use super::{
    drain::let_go,
    error::{ErrorKind, Failure, panicked},
    request_id::{REQUEST_ID, request_id},
};
use crate::{
    batch::StageTimes,
    metrics::{AnswerGuard, CLIENT_LEFT, RequestGuard},
    settings::RequestLog,
    state::ServerState,
    telemetry::{Ended, Parent, TraceId, trace_state},
};

/// How much of an unknown path the log has.
const LONGEST_PATH: usize = 256;

const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Names a request, keeps what became of it, answers where a route panics, and lets its client go where
/// the server is about to: around all routes. One layer for all of it, since each costs as much as a
/// route does.
pub(super) async fn observe(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    let observed = Observed::of(&state, &request);
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|panic| panicked(panic.as_ref()));
    let_go(&state, &mut response);
    observed.answered(&mut response);
    response
}

/// A request on its way. Dropped without an answer, its client left.
struct Observed<'a> {
    state: &'a ServerState,
    /// Taken when the request is answered.
    guard: Option<AnswerGuard<'a>>,
    /// Only where a prediction is asked for.
    counted: Option<RequestGuard<'a>>,
    id: HeaderValue,
    parent: Option<Parent>,
    /// Only where a span is made of it.
    traced: Option<Box<Traced>>,
    /// Only where no route tells what was asked for.
    unmatched: Option<Uri>,
}

/// What a span needs beyond the rest.
struct Traced {
    began: SystemTime,
    uri: Uri,
    state: Option<String>,
}

/// How a request ended, for the log.
struct Line<'a> {
    status: u16,
    took: Duration,
    times: Option<StageTimes>,
    error: Option<&'static str>,
    reason: Option<&'a str>,
    trace: Option<TraceId>,
}

impl<'a> Observed<'a> {
    fn of(state: &'a ServerState, request: &Request) -> Self {
        let path = request.extensions().get::<MatchedPath>();
        let path = path.map(MatchedPath::as_str);
        let guard = state.metrics.follow_answer(path, request.method());
        let traces = state.telemetry.is_some() && !guard.is_quiet();
        Self {
            state,
            counted: guard
                .is_for_prediction()
                .then(|| state.metrics.follow_request()),
            id: request_id(request.headers()),
            parent: Parent::of(request.headers()),
            traced: traces.then(|| {
                Box::new(Traced {
                    began: SystemTime::now(),
                    uri: request.uri().clone(),
                    state: trace_state(request.headers()),
                })
            }),
            unmatched: (!guard.is_matched()).then(|| request.uri().clone()),
            guard: Some(guard),
        }
    }

    fn answered(mut self, response: &mut Response) {
        let Some(guard) = self.guard.take() else {
            return;
        };
        let (path, method, quiet) = (guard.path(), guard.method(), guard.is_quiet());
        let status = response.status();
        if let Some(counted) = self.counted.take() {
            counted.answered(status);
        }
        let times = response.extensions().get::<StageTimes>().copied();
        let error = response.extensions().get().map(|ErrorKind(kind)| *kind);
        let took = guard.answered(status, error, times);

        let parts = self.state.telemetry.as_ref().zip(self.traced.as_deref());
        let trace = parts.map(|(telemetry, traced)| {
            telemetry.record(&Ended {
                parent: self.parent,
                state: traced.state.as_deref(),
                method,
                route: self.unmatched.is_none().then_some(path),
                uri: &traced.uri,
                status,
                error,
                began: traced.began,
                took,
                times,
            })
        });
        if self.has_line(status, quiet) {
            let failure = response.extensions().get::<Failure>();
            self.log(
                path,
                method,
                &Line {
                    status: status.as_u16(),
                    took,
                    times,
                    error,
                    reason: failure.map(|Failure(reason)| reason.as_str()),
                    trace: trace.or(self.parent.map(|parent| parent.trace)),
                },
            );
        }

        let headers = response.headers_mut();
        let id = mem::replace(&mut self.id, HeaderValue::from_static(""));
        headers.insert(REQUEST_ID, id);
        if let Some(value) = times.and_then(server_timing) {
            headers.insert(SERVER_TIMING, value);
        }
    }

    /// Whether the log has a line for such an answer. Health checks and scrapes have none: they
    /// come all the time, and what makes a server unhealthy was logged when it happened.
    fn has_line(&self, status: StatusCode, quiet: bool) -> bool {
        if status.is_server_error() {
            return !(quiet && status == StatusCode::SERVICE_UNAVAILABLE);
        }
        !quiet && self.state.request_log == RequestLog::All
    }

    fn log(&self, path: &str, method: &str, line: &Line) {
        macro_rules! log {
            ($level:ident, $message:literal) => {
                tracing::$level!(
                    request_id = self.id.to_str().unwrap_or_default(),
                    method,
                    route = path,
                    path = self.unmatched.as_ref().map(beginning),
                    status = line.status,
                    latency_ms = milliseconds(line.took),
                    queue_ms = line.times.map(|times| milliseconds(times.queue)),
                    tokenize_ms = line.times.map(|times| milliseconds(times.tokenize)),
                    inference_ms = line.times.map(|times| milliseconds(times.inference)),
                    error = line.error,
                    reason = line.reason,
                    trace_id = line.trace.map(field::display),
                    $message
                )
            };
        }
        match line.status {
            500.. => log!(error, "request failed"),
            CLIENT_LEFT => log!(info, "client left"),
            _ => log!(info, "request"),
        }
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        // The guard counts it when it is dropped.
        if let Some(guard) = self.guard.take()
            && !guard.is_quiet()
            && self.state.request_log == RequestLog::All
        {
            self.log(
                guard.path(),
                guard.method(),
                &Line {
                    status: CLIENT_LEFT,
                    took: guard.elapsed(),
                    times: None,
                    error: None,
                    reason: None,
                    trace: self.parent.map(|parent| parent.trace),
                },
            );
        }
    }
}

/// The path without its query, which is the client's, and not more of it than tells what it was:
/// it may be as long as a head.
fn beginning(uri: &Uri) -> &str {
    let path = uri.path();
    &path[..path.floor_char_boundary(LONGEST_PATH)]
}

/// A duration in milliseconds, without the digits that nobody reads.
fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// The stages for whoever asked, as browsers and load generators show them.
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
    use super::*;

    #[test]
    fn a_path_is_logged_without_its_query_and_not_at_any_length() {
        assert_eq!(beginning(&Uri::from_static("/a/b?c=d")), "/a/b");
        let long = format!("/{}", "a".repeat(5000));
        assert_eq!(beginning(&long.parse().unwrap()), &long[..LONGEST_PATH]);
    }

    #[test]
    fn stages_are_told_in_milliseconds() {
        let value = server_timing(StageTimes {
            queue: Duration::from_micros(1_250),
            tokenize: Duration::from_nanos(80_400),
            inference: Duration::from_secs(2),
        });
        let expected = "queue;dur=1.25, tokenize;dur=0.08, inference;dur=2000";
        assert_eq!(value.unwrap(), expected);
    }
}
