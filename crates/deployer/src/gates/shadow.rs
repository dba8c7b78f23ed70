//! What does the candidate make of copies of the clients' requests?

use std::{fmt::Write as _, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Candidate, Gate};
use crate::{
    config::ShadowSettings,
    event::Event,
    evidence::Evidence,
    latency::{LatencyLimit, milliseconds},
    ports::{Traffic, WorldError},
    statistics::{Z_99, drift_of_labels, wilson},
    traffic::{ENOUGH_LABELS, Seen},
    verdict::{Finding, Verdict},
};

/// Mirrors live traffic to the candidate for a while; its answers are thrown away.
#[derive(Debug)]
pub struct Shadow {
    settings: ShadowSettings,
}

impl Shadow {
    /// For so long, with these limits.
    #[must_use]
    pub fn new(settings: ShadowSettings) -> Self {
        Self { settings }
    }

    /// What the candidate answered to copies, and what clients were answered meanwhile.
    async fn mirror(
        &self,
        candidate: &Candidate<'_>,
        logs: [&dyn Traffic; 2],
    ) -> Result<[Seen; 2], WorldError> {
        let seen = self.copy(candidate, logs).await;
        // Also where turning them on failed: it may have done so half-way.
        candidate.world.router.set_shadow(false)?;
        seen
    }

    /// The same, leaving the copies on.
    async fn copy(
        &self,
        candidate: &Candidate<'_>,
        [shadow_log, access_log]: [&dyn Traffic; 2],
    ) -> Result<[Seen; 2], WorldError> {
        const PAUSE: Duration = Duration::from_secs(1);

        // What lies in the logs from before is not about this candidate.
        shadow_log.new_requests()?;
        let requests = access_log.new_requests()?;
        candidate.reporter.report(&Event::Logged {
            requests: &requests,
        });
        candidate.world.router.set_shadow(true)?;
        let (mut copied, mut original) = (Seen::default(), Seen::default());
        let until = Instant::now() + self.settings.duration;
        while Instant::now() < until {
            tokio::time::sleep(PAUSE.min(until - Instant::now())).await;
            let requests = access_log.new_requests()?;
            candidate.reporter.report(&Event::Logged {
                requests: &requests,
            });
            original.add(&Seen::of(candidate.color.other(), &requests));
            copied.add(&Seen::of(candidate.color, &shadow_log.new_requests()?));
        }
        Ok([copied, original])
    }

    fn assess(&self, copied: &Seen, original: &Seen, before: &Seen) -> Verdict {
        let ShadowSettings {
            min_requests,
            max_error_rate,
            max_ratio,
            negligible,
            max_label_drift,
            ..
        } = self.settings;
        let mut verdict = copied.tally.judge(max_error_rate, min_requests);
        verdict.summary = format!("of copies, {}", verdict.summary);
        // A rate above the limit is no proof while chance could have brought it about.
        if verdict.finding == Finding::Fail && wilson(copied.tally, Z_99).low <= max_error_rate {
            verdict.finding = Finding::Inconclusive;
        }
        let limit = LatencyLimit {
            max_ratio,
            negligible,
        };
        let mut problems = Vec::new();
        match limit.compare_tails(&copied.latencies, &original.latencies) {
            Some(compared) => {
                let [ours, theirs] = compared.names();
                verdict = verdict
                    .with(ours, compared.seconds)
                    .with(theirs, compared.active_seconds);
                let _ = write!(verdict.summary, "; {compared}");
                if compared.exceeds {
                    problems.push(String::new());
                }
            }
            None => verdict.warnings.push(format!(
                "latency was not compared: {} copies were answered, and {} requests meanwhile",
                copied.latencies.count(),
                original.latencies.count()
            )),
        }
        if copied.labels().min(original.labels()) >= ENOUGH_LABELS {
            let drift = drift_of_labels(&original.labels, &copied.labels);
            verdict = verdict
                .with("label_drift", drift.index)
                .with("label_drift_by_chance", drift.by_chance);
            if drift.exceeds(max_label_drift) {
                problems.push(format!(
                    "; its labels are distributed otherwise than the active release's (population stability index {:.2}, at most {max_label_drift} allowed, and {:.2} for chance)",
                    drift.index, drift.by_chance
                ));
            }
        } else {
            verdict.warnings.push(format!(
                "labels were not compared: {} of copies and {} of requests meanwhile, {ENOUGH_LABELS} of each are needed",
                copied.labels(),
                original.labels()
            ));
        }
        if !problems.is_empty() && verdict.finding == Finding::Pass {
            verdict.finding = Finding::Fail;
        }
        verdict.summary.push_str(&problems.concat());
        // What it cost those who did not ask for it.
        let [without, with] =
            [before, original].map(|seen| seen.waits.quantile(0.99).as_secs_f64());
        if before.waits.count() > 0 && original.waits.count() > 0 {
            verdict = verdict
                .with("client_p99_before_seconds", without)
                .with("client_p99_during_seconds", with);
            let _ = write!(
                verdict.summary,
                "; the clients' p99 was {} before and {} meanwhile",
                milliseconds(without),
                milliseconds(with)
            );
        }
        verdict.resting_on(Evidence {
            active_latency: Some(original.latencies.clone()),
            candidate_latency: Some(copied.latencies.clone()),
            ..Evidence::default()
        })
    }
}

#[async_trait]
impl Gate for Shadow {
    fn name(&self) -> &'static str {
        "shadow"
    }

    fn compares(&self) -> bool {
        true
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let world = candidate.world;
        let (Some(shadow_log), Some(access_log)) = (&world.shadow, &world.traffic) else {
            return Verdict::skipped("router.access_log or router.shadow_log is not set");
        };
        match self
            .mirror(candidate, [shadow_log.as_ref(), access_log.as_ref()])
            .await
        {
            Ok([copied, original]) => self.assess(&copied, &original, candidate.before),
            Err(error) => Verdict::new(Finding::Inconclusive, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::verdict::Tally;

    /// So many requests, of which some failed; the others took so long, and one in so many is "yes".
    fn seen(requests: u64, failed: u64, milliseconds: u64, yes: u64) -> Seen {
        let answered = requests - failed;
        let latencies = (0..answered).map(|_| Duration::from_millis(milliseconds));
        Seen {
            tally: Tally { requests, failed },
            latencies: latencies.clone().collect(),
            waits: latencies.collect(),
            labels: BTreeMap::from([("yes".to_owned(), yes), ("no".to_owned(), answered - yes)]),
        }
    }

    /// The verdict on these copies, beside a thousand requests of 20 ms each, half of them "yes".
    fn judge(copied: &Seen) -> Verdict {
        let settings = ShadowSettings {
            duration: Duration::from_secs(30),
            min_requests: 100,
            max_error_rate: 0.05,
            max_ratio: 2.0,
            negligible: Duration::from_millis(5),
            max_label_drift: 0.25,
        };
        let original = seen(1_000, 0, 20, 500);
        Shadow::new(settings).assess(copied, &original, &original)
    }

    #[test]
    fn copies_that_are_answered_like_the_originals_pass() {
        let verdict = judge(&seen(1_000, 10, 25, 500));
        assert_eq!(verdict.finding, Finding::Pass, "{}", verdict.summary);
        assert!(verdict.warnings.is_empty(), "{:?}", verdict.warnings);
        assert!(
            verdict
                .summary
                .ends_with("the clients' p99 was 20.0 ms before and 20.0 ms meanwhile"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn copies_that_fail_are_slow_or_get_other_labels_fail() {
        for (copied, words) in [
            (
                seen(1_000, 100, 20, 450),
                "of copies, 100 of 1000 requests failed",
            ),
            (seen(1_000, 0, 60, 500), "p99 60"),
            (
                seen(1_000, 0, 20, 950),
                "its labels are distributed otherwise",
            ),
        ] {
            let verdict = judge(&copied);
            assert_eq!(verdict.finding, Finding::Fail, "{}", verdict.summary);
            assert!(verdict.summary.contains(words), "{}", verdict.summary);
        }
    }

    #[test]
    fn failures_that_may_be_chance_leave_it_open() {
        let verdict = judge(&seen(200, 12, 20, 100));
        assert_eq!(
            verdict.finding,
            Finding::Inconclusive,
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn what_was_not_compared_is_told() {
        let warnings = judge(&seen(99, 0, 20, 50)).warnings;
        for words in [
            "latency was not compared: 99",
            "labels were not compared: 99",
        ] {
            assert!(
                warnings.iter().any(|warning| warning.starts_with(words)),
                "{warnings:?}"
            );
        }
    }
}
