//! Load: how much of it is wanted, and what came of it.

use std::{collections::BTreeMap, time::Duration};

use crate::{config::LoadSettings, latency::Latencies, verdict::Tally};

/// How much load.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadPlan {
    /// So many requests at a time, each on a connection of its own.
    pub concurrency: usize,
    /// For so long.
    pub duration: Duration,
    /// Requests per second, sent at even intervals whether or not those before were answered (an
    /// open loop); none to send each as soon as the one before on its connection was answered (a
    /// closed loop).
    pub rate: Option<f64>,
    /// What takes longer has failed.
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

/// What came of a load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Load {
    /// Requests that ended, and how many of them failed.
    pub tally: Tally,
    /// How long those that were answered with success took: in an open loop since they were due, in
    /// a closed one since they were sent. Those that were not answered in time took as long as they were
    /// waited for.
    pub latencies: Latencies,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Answers with success until requests were no longer sent.
    pub in_time: u64,
    /// For how long they were sent.
    pub elapsed: Duration,
}

impl Load {
    /// Answers with success per second, while requests were sent: who waits for the last ones longer does
    /// not serve fewer.
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
    /// In an open loop nothing is omitted. In a closed one, each connection would have sent a
    /// request every so often as it usually does.
    #[must_use]
    pub fn corrected(&self, plan: &LoadPlan) -> Latencies {
        if plan.rate.is_some() {
            return self.latencies.clone();
        }
        self.latencies.corrected(self.latencies.quantile(0.5))
    }

    /// Counts an answer.
    pub fn answered(&mut self, took: Duration) {
        self.tally.count(true);
        self.latencies.record(took);
    }

    /// Counts a request that nobody answered, though it was waited for so long. It would have taken longer
    /// than that.
    pub fn timed_out(&mut self, kind: &str, waited: Duration) {
        self.failed(kind);
        self.latencies.record(waited);
    }

    /// Counts a failure by its kind.
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
