//! Every counter, and the guards that move them. Handlers hold a guard and never name a counter.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use axum::http::StatusCode;

/// What the server counts since its start.
#[derive(Debug)]
pub(crate) struct Metrics {
    started: Instant,
    requests: AtomicU64,
    errors: AtomicU64,
    in_flight: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Counts {
    /// Requests to `/predict` that arrived, good or bad.
    pub(crate) requests: u64,
    /// Those of them that were answered with a status of 500 or above: the server's own fault.
    pub(crate) errors: u64,
    /// Requests that are being answered now.
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
    /// All counters at zero.
    pub(crate) fn starting_at(started: Instant) -> Self {
        Self {
            started,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
        }
    }

    /// Counts a request and follows it to its end.
    pub(crate) fn follow_request(&self) -> RequestGuard<'_> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        RequestGuard { metrics: self }
    }

    /// The engine panicked over a batch.
    pub(crate) fn engine_panicked(&self) {}

    /// A forward pass of some texts, with as many tokens and as many with padding, took so long.
    pub(crate) fn forward_pass(&self, _texts: usize, _tokens: usize, _padded: usize, _took: Duration) {}

    /// The counters now.
    pub(crate) fn counts(&self) -> Counts {
        // Errors first: each was a request before, so the rate never exceeds 1.
        let errors = self.errors.load(Ordering::Acquire);
        let requests = self.requests.load(Ordering::Relaxed);
        Counts {
            requests,
            errors,
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }

    /// How long the server has been there.
    pub(crate) fn uptime(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.started)
    }
}

/// One request on its way. Dropped without an answer (the client left), it is no error.
#[derive(Debug)]
#[must_use]
pub(crate) struct RequestGuard<'a> {
    metrics: &'a Metrics,
}

impl RequestGuard<'_> {
    /// The request was answered.
    pub(crate) fn answered(self, status: StatusCode) {
        if status.is_server_error() {
            self.count_error();
        }
    }

    fn count_error(&self) {
        self.metrics.errors.fetch_add(1, Ordering::Release);
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
        if thread::panicking() {
            self.count_error();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts_after(statuses: &[StatusCode]) -> Counts {
        let metrics = Metrics::starting_at(Instant::now());
        for status in statuses {
            metrics.follow_request().answered(*status);
        }
        metrics.counts()
    }

    #[test]
    fn nothing_asked_is_no_error() {
        assert!(counts_after(&[]).error_rate().abs() < f64::EPSILON);
    }

    #[test]
    fn only_the_servers_own_faults_are_errors() {
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
    fn a_client_that_left_is_a_request_but_no_error() {
        let metrics = Metrics::starting_at(Instant::now());
        drop(metrics.follow_request());
        let counts = metrics.counts();
        assert_eq!((counts.requests, counts.errors), (1, 0));
    }

    #[test]
    fn a_panic_is_an_error() {
        let metrics = Metrics::starting_at(Instant::now());
        thread::scope(|scope| {
            let handler = scope.spawn(|| {
                let _request = metrics.follow_request();
                panic!("as planned");
            });
            assert!(handler.join().is_err());
        });
        assert_eq!(metrics.counts().errors, 1);
    }
}
