//! The server's metrics. Handlers report what happened to a request, and do not name metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use axum::http::{Method, StatusCode};

use crate::{
    metrics::{
        histogram::{Histogram, TEXTS, TIMES, TOKENS},
        label_table::LabelTable,
    },
    scheduler::stage_times::StageTimes,
};

/// The route label of requests that match no route.
const UNMATCHED: &str = "unmatched";

/// The status of requests whose client disconnected before the response, as in nginx's log.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// What the server counts since its start.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    pub(super) requests: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) in_flight: AtomicU64,
    /// More rows than there are routes. They come from the router, not from clients.
    pub(super) routes: LabelTable<Route, 32>,
    pub(super) unmatched: Route,
    pub(super) error_kinds: LabelTable<ErrorKind, 48>,
    pub(super) queue: Histogram,
    pub(super) tokenize: Histogram,
    pub(super) inference: Histogram,
    pub(super) batch_texts: Histogram,
    pub(super) batch_tokens: Histogram,
    pub(super) padding: AtomicU64,
    pub(super) engine_panics: AtomicU64,
}

/// The metrics of one route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: String,
    pub(super) is_probe: bool,
    /// Whether it is a route for predictions.
    pub(super) predicts: bool,
    /// Enough rows for each combination of method and status.
    pub(super) answers: LabelTable<Answers, 64>,
    pub(super) latency: Histogram,
}

/// Responses of a route with one status to one method.
#[derive(Debug)]
pub(super) struct Answers {
    pub(super) method: &'static str,
    pub(super) code: u16,
    pub(super) count: AtomicU64,
}

/// Requests that failed with one kind of error.
#[derive(Debug)]
pub(super) struct ErrorKind {
    pub(super) name: &'static str,
    pub(super) count: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counts {
    /// Prediction requests that arrived, valid or not.
    pub(crate) requests: u64,
    /// Those of them that were answered with status 500 or above.
    pub(crate) errors: u64,
    /// Prediction requests in flight.
    pub(crate) in_flight: u64,
}

impl Counts {
    /// Errors per request, from 0 to 1; 0 before the first request.
    pub(crate) fn error_rate(self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.errors as f64 / self.requests as f64
        }
    }
}

impl Metrics {
    /// Starts all counters at zero.
    pub(crate) fn starting_at(started: Instant) -> Self {
        Self {
            started,
            started_at: SystemTime::now() - started.elapsed(),
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            routes: LabelTable::new(),
            unmatched: Route::new(UNMATCHED),
            error_kinds: LabelTable::new(),
            queue: Histogram::new(&TIMES),
            tokenize: Histogram::new(&TIMES),
            inference: Histogram::new(&TIMES),
            batch_texts: Histogram::new(&TEXTS),
            batch_tokens: Histogram::new(&TOKENS),
            padding: AtomicU64::new(0),
            engine_panics: AtomicU64::new(0),
        }
    }

    /// Returns what the counters need of a request: its route, its method, and its start time.
    pub(crate) fn track(&self, path: Option<&str>, method: &Method) -> TrackedRequest {
        let index = path.and_then(|path| {
            self.routes
                .index_of(|route| route.path == path, || Route::new(path))
        });
        let route = self.route_at(index);
        let method = method_name(method);
        TrackedRequest {
            route: index,
            is_probe: route.is_probe,
            is_for_prediction: route.predicts && method == "POST",
            method,
            began: Instant::now(),
        }
    }

    /// Counts the arrival of a request. A call of [`Self::answered`] or [`Self::client_disconnected`] must
    /// follow.
    pub(crate) fn arrived(&self, request: TrackedRequest) {
        if request.is_for_prediction {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a response by its status, its kind of error, and the times of its stages if the model ran.
    /// Returns how long the request took.
    pub(crate) fn answered(
        &self,
        request: TrackedRequest,
        status: StatusCode,
        error: Option<&'static str>,
        times: Option<StageTimes>,
    ) -> Duration {
        if let Some(times) = times {
            self.queue.observe_time(times.queue);
            self.tokenize.observe_time(times.tokenize);
        }
        if let Some(error) = error {
            self.count_error(error);
        }
        if request.is_for_prediction && status.is_server_error() {
            self.errors.fetch_add(1, Ordering::Release);
        }
        self.ended(request, status.as_u16())
    }

    /// Counts a request whose client disconnected before the response, which is not an error. Returns how long
    /// the client waited.
    pub(crate) fn client_disconnected(&self, request: TrackedRequest) -> Duration {
        self.ended(request, CLIENT_CLOSED_REQUEST)
    }

    fn ended(&self, request: TrackedRequest, code: u16) -> Duration {
        let took = request.began.elapsed();
        if request.is_for_prediction {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        let route = self.route_at(request.route);
        let method = request.method;
        let answers = route.answers.find(
            |answers| answers.code == code && answers.method == method,
            || Answers {
                method,
                code,
                count: AtomicU64::new(0),
            },
        );
        if let Some(answers) = answers {
            answers.count.fetch_add(1, Ordering::Relaxed);
        }
        route.latency.observe_time(took);
        took
    }

    /// The route of a request, or `unmatched`.
    pub(crate) fn path(&self, request: TrackedRequest) -> &str {
        &self.route_at(request.route).path
    }

    fn route_at(&self, index: Option<usize>) -> &Route {
        let route = index.and_then(|index| self.routes.get(index));
        route.unwrap_or(&self.unmatched)
    }

    /// Counts an error of one kind.
    pub(crate) fn count_error(&self, name: &'static str) {
        let kind = self.error_kinds.find(
            |kind| kind.name == name,
            || ErrorKind {
                name,
                count: AtomicU64::new(0),
            },
        );
        if let Some(kind) = kind {
            kind.count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a panic of the engine.
    pub(crate) fn engine_panicked(&self) {
        self.engine_panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Records a forward pass: its texts, its tokens without and with padding, and its duration.
    pub(crate) fn forward_pass(&self, texts: usize, tokens: usize, padded: usize, took: Duration) {
        self.inference.observe_time(took);
        self.batch_texts.observe_count(texts);
        // A pass of tensors has no tokens.
        if padded > 0 {
            self.batch_tokens.observe_count(padded);
            let padding = u64::try_from(padded.saturating_sub(tokens)).unwrap_or(u64::MAX);
            self.padding.fetch_add(padding, Ordering::Relaxed);
        }
    }

    /// Returns the counters.
    pub(crate) fn counts(&self) -> Counts {
        // Errors are read first, so that they never exceed the requests.
        let errors = self.errors.load(Ordering::Acquire);
        let requests = self.requests.load(Ordering::Relaxed);
        Counts {
            requests,
            errors,
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// How long the server has been running.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

impl Route {
    fn new(path: &str) -> Self {
        // Health checks and scrapes repeat all the time, so they are not logged.
        let is_probe = matches!(
            path,
            "/health" | "/livez" | "/readyz" | "/startupz" | "/metrics"
        ) || path.starts_with("/v2/health/")
            || (path.starts_with("/v2/models/") && path.ends_with("/ready"));
        Self {
            path: path.to_owned(),
            is_probe,
            predicts: path == "/predict" || path.ends_with("/infer"),
            answers: LabelTable::new(),
            latency: Histogram::new(&TIMES),
        }
    }
}

/// A standard method or `_OTHER`, so that clients cannot create labels.
fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

/// A request between its arrival and its response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TrackedRequest {
    /// The index of its route; `None` if it matches none.
    route: Option<usize>,
    /// Whether it is a health check or a scrape.
    pub(crate) is_probe: bool,
    /// Whether it is a prediction request.
    is_for_prediction: bool,
    /// Its method, or `_OTHER`.
    pub(crate) method: &'static str,
    began: Instant,
}

impl TrackedRequest {
    /// Whether the request matches a route.
    pub(crate) fn is_matched(&self) -> bool {
        self.route.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(metrics: &Metrics) -> TrackedRequest {
        let request = metrics.track(Some("/predict"), &Method::POST);
        metrics.arrived(request);
        request
    }

    fn counts_after(statuses: &[StatusCode]) -> Counts {
        let metrics = Metrics::starting_at(Instant::now());
        for status in statuses {
            metrics.answered(arrived(&metrics), *status, None, None);
        }
        metrics.counts()
    }

    #[test]
    fn error_rate_is_zero_without_requests() {
        assert!(counts_after(&[]).error_rate().abs() < f64::EPSILON);
    }

    #[test]
    fn only_status_500_and_above_counts_as_error() {
        let counts = counts_after(&[
            StatusCode::OK,
            StatusCode::BAD_REQUEST,
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::GATEWAY_TIMEOUT,
        ]);
        assert_eq!((counts.requests, counts.errors), (4, 1));
        assert!((counts.error_rate() - 0.25).abs() < f64::EPSILON);
    }

    #[test]
    fn disconnected_client_counts_as_request_without_error() {
        let metrics = Metrics::starting_at(Instant::now());
        let request = arrived(&metrics);
        assert_eq!(metrics.counts().in_flight, 1);
        metrics.client_disconnected(request);
        let counts = metrics.counts();
        assert_eq!(
            (counts.requests, counts.errors, counts.in_flight),
            (1, 0, 0)
        );
    }

    #[test]
    fn only_predictions_count_as_requests() {
        let metrics = Metrics::starting_at(Instant::now());
        for (path, method) in [
            (Some("/health"), Method::GET),
            (Some("/predict"), Method::GET),
            (None, Method::POST),
        ] {
            let request = metrics.track(path, &method);
            metrics.arrived(request);
            assert_eq!(metrics.path(request), path.unwrap_or(UNMATCHED));
            metrics.answered(request, StatusCode::INTERNAL_SERVER_ERROR, None, None);
        }
        let counts = metrics.counts();
        assert_eq!(
            (counts.requests, counts.errors, counts.in_flight),
            (0, 0, 0)
        );
    }
}
