//! Judges a candidate that has the traffic. Pure: it is told what was seen and how long it took.

use std::time::Duration;

use crate::{
    config::WatchSettings,
    release::Health,
    verdict::{Finding, Tally, Verdict},
};

/// What one look at the candidate showed.
#[derive(Debug, Default)]
pub struct Look {
    /// Client requests since the last look that wanted the candidate.
    pub traffic: Tally,
    /// The candidate's health, or why it is not healthy.
    pub health: Option<Result<Health, String>>,
    /// A test request sent straight to the candidate: why it failed, if it did.
    pub request: Option<Result<(), String>>,
    /// How the candidate stopped, if the fleet says that it did.
    pub stopped: Option<String>,
}

/// Everything that was seen since the switch.
#[derive(Debug)]
pub struct Watch {
    settings: WatchSettings,
    looks: u32,
    tally: Tally,
    failures_in_a_row: u32,
    last_failure: Option<String>,
    counters: Option<Counters>,
    uptime_seconds: Option<f64>,
    stopped: Option<String>,
}

/// The candidate's own counters: what they were first, and what they are now.
#[derive(Debug, Clone, Copy)]
struct Counters {
    first: Tally,
    now: Tally,
}

impl Watch {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(settings: WatchSettings) -> Self {
        Self {
            settings,
            looks: 0,
            tally: Tally::default(),
            failures_in_a_row: 0,
            last_failure: None,
            counters: None,
            uptime_seconds: None,
            stopped: None,
        }
    }

    /// How many requests traffic is behind what a judgment at the end will need.
    #[must_use]
    pub fn missing_requests(&self) -> usize {
        let WatchSettings {
            duration,
            interval,
            min_requests,
            ..
        } = self.settings;
        let looks = duration.as_millis() / interval.as_millis().max(1);
        let each = u128::from(min_requests).div_ceil(looks.max(1));
        let needed = (each * u128::from(self.looks)).min(u128::from(min_requests));
        let missing = needed.saturating_sub(u128::from(self.tally.requests));
        // Never so many at once that asking becomes a load of its own.
        let missing = missing.min(2 * each);
        usize::try_from(missing).unwrap_or(usize::MAX)
    }

    /// Client requests that wanted the candidate.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Why the last look failed, if it did.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Takes note of one look.
    pub fn see(&mut self, look: Look) {
        self.looks += 1;
        self.tally.add(look.traffic);
        if let Some(Ok(health)) = &look.health {
            self.read_counters(health);
        }
        if let Some(how) = look.stopped {
            self.stopped.get_or_insert(how);
        }
        let failure = match (look.health, look.request) {
            (Some(Err(reason)), _) => Some(format!("health check failed: {reason}")),
            (_, Some(Err(reason))) => Some(format!("test request failed: {reason}")),
            _ => None,
        };
        self.failures_in_a_row = failure.as_ref().map_or(0, |_| self.failures_in_a_row + 1);
        self.last_failure = failure;
    }

    /// The verdict, as soon as there is one: at the end, or after the few looks more that it takes
    /// to see whether a check that fails there goes on failing.
    #[must_use]
    pub fn verdict(&self, elapsed: Duration) -> Option<Verdict> {
        let WatchSettings {
            duration,
            max_error_rate,
            min_requests,
            failures,
            ..
        } = self.settings;
        if let Some(how) = &self.stopped {
            return Some(Verdict::new(Finding::Fail, format!("it stopped: {how}")));
        }
        if self.failures_in_a_row >= failures {
            let last = self.last_failure.as_deref().unwrap_or_default();
            let summary = format!(
                "{} checks in a row failed, the last one: {last}",
                self.failures_in_a_row
            );
            return Some(Verdict::new(Finding::Fail, summary));
        }
        let by_clients = self.tally.judge(max_error_rate, min_requests);
        let by_itself = self.counted().judge(max_error_rate, min_requests);
        if by_clients.finding == Finding::Fail {
            return Some(by_clients);
        }
        if by_itself.finding == Finding::Fail {
            return Some(Verdict {
                summary: format!("by its own counters, {}", by_itself.summary),
                ..by_itself
            });
        }
        // A failed check at the end is a question that the next few looks answer.
        if elapsed < duration || self.failures_in_a_row > 0 {
            return None;
        }
        if by_clients.finding == Finding::Inconclusive && by_itself.finding == Finding::Pass {
            return Some(Verdict {
                summary: format!("by its own counters alone, {}", by_itself.summary),
                ..by_itself
            });
        }
        Some(by_clients)
    }

    /// What the candidate's own counters rose by since the first look: their lifetime value would
    /// dilute what happens now with the test requests that came before.
    fn counted(&self) -> Tally {
        self.counters.map_or_else(Tally::default, |counters| {
            let requests = counters
                .now
                .requests
                .saturating_sub(counters.first.requests);
            Tally {
                requests,
                failed: counters
                    .now
                    .failed
                    .saturating_sub(counters.first.failed)
                    .min(requests),
            }
        })
    }

    fn read_counters(&mut self, health: &Health) {
        if let Some(now) = health.uptime_seconds {
            if let Some(before) = self.uptime_seconds.filter(|before| now < *before) {
                self.stopped.get_or_insert(format!(
                    "its uptime fell from {before:.0} s to {now:.0} s, so it crashed and was started again"
                ));
            }
            self.uptime_seconds = Some(now);
        }
        if let (Some(requests), Some(failed)) = (health.request_count, health.error_count) {
            let now = Tally { requests, failed };
            let first = self.counters.map_or(now, |counters| counters.first);
            self.counters = Some(Counters { first, now });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn watch() -> Watch {
        Watch::new(WatchSettings {
            duration: MINUTE,
            interval: Duration::from_secs(1),
            max_error_rate: 0.05,
            min_requests: 20,
            failures: 3,
        })
    }

    fn look(requests: u64, failed: u64) -> Look {
        Look {
            traffic: Tally { requests, failed },
            health: Some(Ok(Health::default())),
            request: Some(Ok(())),
            stopped: None,
        }
    }

    fn healthy(requests: u64, errors: u64, uptime: f64) -> Look {
        let health = Health {
            request_count: Some(requests),
            error_count: Some(errors),
            uptime_seconds: Some(uptime),
            ..Health::default()
        };
        Look {
            health: Some(Ok(health)),
            ..look(0, 0)
        }
    }

    fn finding(watch: &Watch, elapsed: Duration) -> Option<Finding> {
        watch.verdict(elapsed).map(|verdict| verdict.finding)
    }

    #[test]
    fn a_good_release_passes_at_the_end_and_not_before() {
        let mut watch = watch();
        watch.see(look(1000, 0));
        assert_eq!(finding(&watch, MINUTE / 2), None);
        assert_eq!(finding(&watch, MINUTE), Some(Finding::Pass));
    }

    #[test]
    fn too_many_errors_fail_at_once() {
        let mut watch = watch();
        watch.see(look(100, 6));
        assert_eq!(finding(&watch, Duration::from_secs(1)), Some(Finding::Fail));
    }

    #[test]
    fn one_early_error_is_not_an_error_rate() {
        let mut watch = watch();
        watch.see(look(1, 1));
        assert_eq!(finding(&watch, Duration::from_secs(1)), None);
    }

    #[test]
    fn failed_checks_count_only_in_a_row() {
        let mut watch = watch();
        let bad = || Look {
            health: Some(Err("timed out".to_owned())),
            ..look(30, 0)
        };
        watch.see(bad());
        watch.see(bad());
        watch.see(look(30, 0));
        watch.see(bad());
        watch.see(bad());
        assert_eq!(finding(&watch, Duration::from_secs(5)), None);
        watch.see(bad());
        assert_eq!(finding(&watch, Duration::from_secs(6)), Some(Finding::Fail));
    }

    #[test]
    fn healthy_but_unable_to_predict_is_a_failure() {
        let mut watch = watch();
        for _ in 0..3 {
            watch.see(Look {
                request: Some(Err("timed out".to_owned())),
                ..look(0, 0)
            });
        }
        let verdict = watch.verdict(Duration::from_secs(6)).unwrap();
        assert_eq!(verdict.finding, Finding::Fail);
        assert!(
            verdict.summary.contains("test request failed: timed out"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn a_candidate_that_stopped_fails_at_once() {
        let mut watch = watch();
        watch.see(Look {
            stopped: Some("exit code 3".to_owned()),
            ..look(0, 0)
        });
        assert_eq!(finding(&watch, Duration::ZERO), Some(Finding::Fail));
    }

    #[test]
    fn a_restart_behind_our_back_is_a_crash() {
        let mut watch = watch();
        watch.see(healthy(60, 0, 8.0));
        watch.see(healthy(2, 0, 0.5));
        let verdict = watch.verdict(Duration::from_secs(2)).unwrap();
        assert!(verdict.summary.contains("crashed"), "{}", verdict.summary);
    }

    #[test]
    fn a_restart_shows_also_where_nothing_is_counted() {
        let mut watch = watch();
        for uptime in [8.0, 0.5] {
            let health = Health {
                uptime_seconds: Some(uptime),
                ..Health::default()
            };
            watch.see(Look {
                health: Some(Ok(health)),
                ..look(0, 0)
            });
        }
        assert_eq!(finding(&watch, Duration::from_secs(2)), Some(Finding::Fail));
    }

    #[test]
    fn own_counters_are_judged_by_their_increase() {
        let mut watch = watch();
        watch.see(healthy(1_000_000, 0, 1.0));
        watch.see(healthy(1_000_100, 10, 2.0));
        assert_eq!(finding(&watch, Duration::from_secs(2)), Some(Finding::Fail));
    }

    #[test]
    fn without_a_log_the_counters_alone_can_promote() {
        let mut watch = watch();
        watch.see(healthy(50, 0, 1.0));
        watch.see(healthy(90, 0, 2.0));
        let verdict = watch.verdict(MINUTE).unwrap();
        assert_eq!(verdict.finding, Finding::Pass);
        assert!(
            verdict.summary.starts_with("by its own counters alone"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn nothing_seen_is_inconclusive() {
        let mut watch = watch();
        watch.see(Look::default());
        assert_eq!(finding(&watch, MINUTE), Some(Finding::Inconclusive));
    }

    #[test]
    fn a_quiet_service_gets_enough_probes_for_a_judgment() {
        let mut watch = watch();
        assert_eq!(watch.missing_requests(), 0);
        for look_number in 1..=60 {
            watch.see(look(watch.missing_requests() as u64, 0));
            assert!(watch.missing_requests() <= 1, "look {look_number}");
        }
        assert_eq!(finding(&watch, MINUTE), Some(Finding::Pass));
    }

    #[test]
    fn a_busy_service_gets_no_probes() {
        let mut watch = watch();
        for requests in [100, 0, 0, 100] {
            watch.see(look(requests, 0));
            assert_eq!(watch.missing_requests(), 0);
        }
    }

    proptest! {
        #[test]
        fn the_end_always_brings_a_verdict(looks in prop::collection::vec((0_u64..50, 0_u64..3, any::<bool>()), 0..40)) {
            let mut watch = watch();
            for (requests, failed, checked) in looks {
                let health = checked.then(|| Ok(Health::default()));
                watch.see(Look { health, ..look(requests, failed.min(requests)) });
            }
            prop_assert!(watch.verdict(MINUTE).is_some());
        }

        #[test]
        fn a_release_without_a_failure_is_never_rolled_back_early(
            looks in prop::collection::vec(0_u64..50, 0..40), at in 0_u64..60,
        ) {
            let mut watch = watch();
            for requests in looks {
                watch.see(look(requests, 0));
            }
            prop_assert_eq!(finding(&watch, Duration::from_secs(at)), None);
        }
    }
}
