//! The candidate's own counters.

use crate::{evidence::tally::Tally, release::Health};

/// The counters and the uptime that a candidate reports with its health.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// At the first observation and at the last one.
    first_and_last: Option<[Tally; 2]>,
    uptime_seconds: Option<f64>,
}

impl Counters {
    /// Adds a health answer. Returns the sign that the candidate was restarted, if there is one.
    pub(super) fn record(&mut self, health: &Health) -> Option<String> {
        let by_uptime = self.record_uptime(health);
        let by_counters = self.record_counters(health);
        by_uptime.or(by_counters)
    }

    fn record_uptime(&mut self, health: &Health) -> Option<String> {
        let now = health.uptime_seconds?;
        let before = self.uptime_seconds.replace(now)?;
        (now < before).then(|| format!("its uptime fell from {before:.0} s to {now:.0} s"))
    }

    /// Falling counters are the only sign of a restart if the server reports no uptime.
    fn record_counters(&mut self, health: &Health) -> Option<String> {
        let now = Tally {
            requests: health.request_count?,
            failed: health.error_count?,
        };
        let [first, before] = self.first_and_last.replace([now, now])?;
        self.first_and_last = Some([first, now]);
        (now.requests < before.requests || now.failed < before.failed).then(|| {
            format!(
                "its own counters fell from {} requests and {} failures to {} and {}",
                before.requests, before.failed, now.requests, now.failed
            )
        })
    }

    /// The increase since the first observation. The totals would include the requests of the gates. Successful
    /// own requests of the deployer are subtracted, because they alone would prove a release that no client has
    /// used.
    pub(super) fn increase(&self, own: Tally) -> Tally {
        let Some([first, last]) = self.first_and_last else {
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
