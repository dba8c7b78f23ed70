//! The server's metrics. Handlers report what happened to a request, and do not name metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use axum::http::{Method, StatusCode};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
};

use crate::scheduler::stage_times::StageTimes;

/// The route label of requests that match no route.
const UNMATCHED: &str = "unmatched";

/// The status of requests whose client disconnected before the response, as in nginx's log.
pub(crate) const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Buckets of durations in seconds, from 50 µs to 100 s.
const TIMES: [f64; 19] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0, 30.0, 100.0,
];

/// Buckets of texts in a batch.
const TEXTS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

/// Buckets of tokens in a batch.
const TOKENS: [f64; 12] = [
    16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1_024.0, 2_048.0, 4_096.0, 8_192.0, 16_384.0, 32_768.0,
];

/// What the server counts since its start.
///
/// Labels have few values: routes come from the router, the rest is fixed. None comes from clients.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    pub(super) started_at: SystemTime,
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
    pub(super) responses: Family<ResponseLabels, Counter>,
    pub(super) latency: Family<RouteLabel, Histogram>,
    pub(super) error_kinds: Family<KindLabel, Counter>,
    pub(super) queue: Histogram,
    pub(super) tokenize: Histogram,
    pub(super) inference: Histogram,
    pub(super) batch_texts: Histogram,
    pub(super) batch_tokens: Histogram,
    pub(super) padding: Counter,
    pub(super) engine_panics: Counter,
    pub(crate) captures_dropped: Counter,
    pub(crate) capture_write_errors: Counter,
}

/// The labels of a response.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ResponseLabels {
    route: Arc<str>,
    method: &'static str,
    code: u16,
}

/// The route of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct RouteLabel {
    route: Arc<str>,
}

/// The kind of an error.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct KindLabel {
    kind: &'static str,
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
            responses: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(TIMES)),
            error_kinds: Family::default(),
            queue: Histogram::new(TIMES),
            tokenize: Histogram::new(TIMES),
            inference: Histogram::new(TIMES),
            batch_texts: Histogram::new(TEXTS),
            batch_tokens: Histogram::new(TOKENS),
            padding: Counter::default(),
            engine_panics: Counter::default(),
            captures_dropped: Counter::default(),
            capture_write_errors: Counter::default(),
        }
    }

    /// Counts the arrival of a request. A call of [`Self::answered`] or [`Self::client_disconnected`] must
    /// follow.
    pub(crate) fn arrived(&self, request: &TrackedRequest) {
        if request.is_for_prediction {
            self.requests.fetch_add(1, Ordering::Relaxed);
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts a response by its status, its kind of error, and the times of its stages if the model ran.
    /// Returns how long the request took.
    pub(crate) fn answered(
        &self,
        request: &TrackedRequest,
        status: StatusCode,
        error: Option<&'static str>,
        times: Option<StageTimes>,
    ) -> Duration {
        if let Some(times) = times {
            self.queue.observe(times.queue.as_secs_f64());
            self.tokenize.observe(times.tokenize.as_secs_f64());
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
    pub(crate) fn client_disconnected(&self, request: &TrackedRequest) -> Duration {
        self.ended(request, CLIENT_CLOSED_REQUEST)
    }

    fn ended(&self, request: &TrackedRequest, code: u16) -> Duration {
        let took = request.began.elapsed();
        if request.is_for_prediction {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        let label = RouteLabel {
            route: Arc::clone(&request.route),
        };
        let seconds = took.as_secs_f64();
        self.latency.get_or_create(&label).observe(seconds);
        let labels = ResponseLabels {
            route: label.route,
            method: request.method,
            code,
        };
        self.responses.get_or_create(&labels).inc();
        took
    }

    /// Counts an error of one kind.
    pub(crate) fn count_error(&self, kind: &'static str) {
        self.error_kinds.get_or_create(&KindLabel { kind }).inc();
    }

    /// Counts a panic of the engine.
    pub(crate) fn engine_panicked(&self) {
        self.engine_panics.inc();
    }

    /// Counts a text that was lost for the sample of inputs.
    pub(crate) fn captured_text_dropped(&self) {
        self.captures_dropped.inc();
    }

    /// Counts a failed write of the sample of inputs.
    pub(crate) fn capture_write_failed(&self) {
        self.capture_write_errors.inc();
    }

    /// Records a forward pass: its texts, its tokens without and with padding, and its duration.
    pub(crate) fn forward_pass(&self, texts: usize, tokens: usize, padded: usize, took: Duration) {
        self.inference.observe(took.as_secs_f64());
        self.batch_texts.observe(texts as f64);
        // A pass of tensors has no tokens.
        if padded > 0 {
            self.batch_tokens.observe(padded as f64);
            self.padding.inc_by(padded.saturating_sub(tokens) as u64);
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
#[derive(Debug)]
pub(crate) struct TrackedRequest {
    /// Its route, or `unmatched`.
    pub(crate) route: Arc<str>,
    /// Whether it matches a route.
    pub(crate) is_matched: bool,
    /// Whether it is a health check or a scrape. These repeat all the time, so they are not logged.
    pub(crate) is_probe: bool,
    /// Whether it is a prediction request.
    is_for_prediction: bool,
    /// Its method, or `_OTHER`.
    pub(crate) method: &'static str,
    began: Instant,
}

impl TrackedRequest {
    /// A request that arrives now; `path` is that of its route.
    pub(crate) fn new(path: Option<&str>, method: &Method) -> Self {
        let method = method_name(method);
        let route = path.unwrap_or(UNMATCHED);
        let is_probe = matches!(
            route,
            "/health" | "/livez" | "/readyz" | "/startupz" | "/metrics"
        ) || route.starts_with("/v2/health/")
            || (route.starts_with("/v2/models/") && route.ends_with("/ready"));
        Self {
            route: route.into(),
            is_matched: path.is_some(),
            is_probe,
            is_for_prediction: method == "POST"
                && (route == "/predict" || route.ends_with("/infer")),
            method,
            began: Instant::now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(metrics: &Metrics) -> TrackedRequest {
        let request = TrackedRequest::new(Some("/predict"), &Method::POST);
        metrics.arrived(&request);
        request
    }

    fn counts_after(statuses: &[StatusCode]) -> Counts {
        let metrics = Metrics::starting_at(Instant::now());
        for status in statuses {
            metrics.answered(&arrived(&metrics), *status, None, None);
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
        metrics.client_disconnected(&request);
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
            let request = TrackedRequest::new(path, &method);
            metrics.arrived(&request);
            assert_eq!(&*request.route, path.unwrap_or("unmatched"));
            metrics.answered(&request, StatusCode::INTERNAL_SERVER_ERROR, None, None);
        }
        let counts = metrics.counts();
        assert_eq!(
            (counts.requests, counts.errors, counts.in_flight),
            (0, 0, 0)
        );
    }

    #[test]
    fn bucket_bounds_ascend() {
        for bounds in [&TIMES[..], &TEXTS, &TOKENS] {
            assert!(bounds.is_sorted_by(|left, right| left < right));
        }
    }
}
