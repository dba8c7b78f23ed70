//! A load: its plan and its result.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::LoadSettings,
    evidence::{latency::Latencies, tally::Tally},
};

/// How much load to generate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadPlan {
    /// Concurrent requests, each on its own connection.
    pub concurrency: usize,
    /// Duration.
    pub duration: Duration,
    /// Requests per second at even intervals, whether or not earlier ones were answered (open loop). `None`
    /// sends each request after the previous answer on its connection (closed loop).
    pub rate: Option<f64>,
    /// A request that takes longer has failed.
    pub timeout: Duration,
}

impl From<&LoadSettings> for LoadPlan {
    fn from(settings: &LoadSettings) -> Self {
        Self {
            concurrency: settings.concurrency,
            duration: settings.duration,
            rate: Some(settings.rate).filter(|rate| *rate > 0.0),
            timeout: settings.timeout,
        }
    }
}

/// The result of a load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadResult {
    /// Requests that ended, and failures among them.
    pub tally: Tally,
    /// Latencies of successful requests, in an open loop from when each was due, in a closed loop from when it
    /// was sent. Requests that timed out count with the time waited.
    pub latencies: Latencies,
    /// Errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// Successful answers while requests were being sent.
    pub in_time: u64,
    /// How long requests were sent.
    pub elapsed: Duration,
}

impl LoadResult {
    /// Successful answers per second while requests were being sent. Waiting for the last answers does not
    /// lower it.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.in_time as f64 / seconds
        } else {
            0.0
        }
    }

    /// The latencies, corrected for coordinated omission.
    ///
    /// An open loop omits nothing. In a closed loop each connection would have sent a request at its median
    /// interval.
    #[must_use]
    pub fn corrected(&self, plan: &LoadPlan) -> Latencies {
        if plan.rate.is_some() {
            return self.latencies.clone();
        }
        self.latencies.corrected(self.latencies.quantile(0.5))
    }

    /// Counts a successful answer.
    pub fn answered(&mut self, took: Duration) {
        self.tally.count(true);
        self.latencies.record(took);
    }

    /// Counts a request without an answer. Its latency is at least the time waited.
    pub fn timed_out(&mut self, kind: &str, waited: Duration) {
        self.failed(kind);
        self.latencies.record(waited);
    }

    /// Counts a failure.
    pub fn failed(&mut self, kind: &str) {
        self.tally.count(false);
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }
}
