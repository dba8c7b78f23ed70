//! Whether a candidate still runs, and answers its checks.

use crate::{
    bake::judge::{Observation, counters::Counters},
    evidence::verdict::{Conclusion, Verdict},
};

/// What the checks of a candidate say.
#[derive(Debug)]
pub(in crate::bake) struct Liveness {
    /// So many failed checks in a row fail the candidate.
    limit: u32,
    consecutive_failures: u32,
    last_failure: Option<String>,
    counters: Counters,
    stopped: Option<String>,
}

impl Liveness {
    /// A candidate that was not observed yet. After `limit` failed checks in a row it fails (`bake.failures`).
    pub(in crate::bake) fn new(limit: u32) -> Self {
        Self {
            limit,
            consecutive_failures: 0,
            last_failure: None,
            counters: Counters::default(),
            stopped: None,
        }
    }

    /// Adds one observation.
    pub(in crate::bake) fn record(&mut self, observation: &Observation) {
        let Observation {
            at,
            health,
            request,
            stopped,
            ..
        } = observation;
        if let Some(Ok(health)) = health
            && let Some(sign) = self.counters.record(health, *at)
        {
            self.stopped
                .get_or_insert_with(|| format!("{sign}, so it crashed and was started again"));
        }
        if let Some(how) = stopped {
            self.stopped.get_or_insert_with(|| how.clone());
        }
        let failure = match (health, request) {
            (Some(Err(reason)), _) => Some(format!("health check failed: {reason}")),
            (_, Some(Err(reason))) => Some(format!("test request failed: {reason}")),
            _ => None,
        };
        self.consecutive_failures = failure
            .as_ref()
            .map_or(0, |_| self.consecutive_failures + 1);
        self.last_failure = failure;
    }

    /// Returns a verdict if the candidate stopped, or failed too many checks in a row.
    pub(in crate::bake) fn failure(&self) -> Option<Verdict> {
        if let Some(how) = &self.stopped {
            return Some(Verdict::new(Conclusion::Fail, format!("it stopped: {how}")));
        }
        if self.consecutive_failures < self.limit {
            return None;
        }
        let last = self.last_failure.as_deref().unwrap_or_default();
        let summary = format!(
            "{} checks in a row failed (bake.failures), the last one: {last}",
            self.consecutive_failures
        );
        Some(Verdict::new(Conclusion::Fail, summary))
    }

    /// Why the last check failed, if it did.
    pub(in crate::bake) fn last_failure(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// The candidate's own counters.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::release::Health;

    fn check(second: u64, health: Result<Health, String>) -> Observation {
        Observation {
            at: Duration::from_secs(second),
            health: Some(health),
            ..Observation::default()
        }
    }

    #[test]
    fn failures_in_a_row_fail_and_a_good_check_ends_the_row() {
        let mut liveness = Liveness::new(2);
        let bad = || Err("answered 503".to_owned());
        for (second, health, fails) in [
            (1, bad(), false),
            (2, Ok(Health::default()), false),
            (3, bad(), false),
            (4, bad(), true),
        ] {
            liveness.record(&check(second, health));
            assert_eq!(liveness.failure().is_some(), fails, "second {second}");
        }
        let summary = liveness.failure().unwrap().summary;
        assert!(summary.contains("answered 503"), "{summary}");
    }

    #[test]
    fn restarted_candidate_fails_although_it_is_healthy() {
        let mut liveness = Liveness::new(3);
        let up_for = |seconds| Health {
            uptime_seconds: Some(seconds),
            ..Health::default()
        };
        for (second, uptime) in [(1, 100.0), (60, 159.0), (61, 1.0)] {
            liveness.record(&check(second, Ok(up_for(uptime))));
        }
        let summary = liveness.failure().unwrap().summary;
        assert!(summary.contains("its uptime fell"), "{summary}");
    }
}
