//! The candidate's own counters.

use std::time::Duration;

use crate::{evidence::tally::Tally, release::Health};

/// The counters and the uptime that a candidate reports with its health.
///
/// Each process of a server may report its own. Then they differ from answer to answer: they fall although nothing was
/// restarted, and their increase means nothing.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// At the first observation and at the last one.
    first_and_last: Option<[Tally; 2]>,
    /// When the first uptime was observed.
    uptime_since: Option<Duration>,
    uptime_seconds: Option<f64>,
    are_of_processes: bool,
}

impl Counters {
    /// Adds the health answer of the observation at `at`. Returns the sign that the candidate was restarted, if there is
    /// one.
    pub(super) fn record(&mut self, health: &Health, at: Duration) -> Option<String> {
        self.record_counters(health);
        self.record_uptime(health, at)
    }

    /// Whether the counters are those of single processes, so that they cannot be used.
    pub(super) fn are_of_processes(&self) -> bool {
        self.are_of_processes
    }

    /// A process that was started before the first observation is older than the time since then. So a shorter uptime is
    /// that of a restarted process, and a longer one, although it fell, is that of another process.
    fn record_uptime(&mut self, health: &Health, at: Duration) -> Option<String> {
        let now = health.uptime_seconds?;
        let since = *self.uptime_since.get_or_insert(at);
        let before = self.uptime_seconds.replace(now)?;
        if now >= before {
            return None;
        }
        if now < at.saturating_sub(since).as_secs_f64() {
            return Some(format!("its uptime fell from {before:.0} s to {now:.0} s"));
        }
        self.are_of_processes = true;
        None
    }

    /// Falling counters are no sign of a restart, because another process may have answered.
    fn record_counters(&mut self, health: &Health) {
        let (Some(requests), Some(failed)) = (health.request_count, health.error_count) else {
            return;
        };
        let now = Tally { requests, failed };
        let [first, before] = self.first_and_last.unwrap_or([now, now]);
        self.first_and_last = Some([first, now]);
        self.are_of_processes |= now.requests < before.requests || now.failed < before.failed;
    }

    /// The increase since the first observation. The totals would include the requests of the gates. Successful
    /// own requests of the deployer are subtracted, because they alone would prove a release that no client has
    /// used. Nothing if the counters are those of single processes.
    pub(super) fn increase(&self, own: Tally) -> Tally {
        let Some([first, last]) = self.first_and_last.filter(|_| !self.are_of_processes) else {
            return Tally::default();
        };
        let requests = last.requests.saturating_sub(first.requests);
        let failed = last.failed.saturating_sub(first.failed).min(requests);
        let succeeded = own.requests - own.failed;
        Tally {
            requests: requests.saturating_sub(succeeded).max(failed),
            failed,
        }
    }
}
