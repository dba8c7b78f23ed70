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
    statistics::{Z_99, stability_of_labels, wilson},
    traffic::Seen,
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
        [shadow_log, access_log]: [&dyn Traffic; 2],
    ) -> Result<[Seen; 2], WorldError> {
        const PAUSE: Duration = Duration::from_secs(1);

        let router = &candidate.world.router;
        // What lies in the logs from before is not about this candidate.
        shadow_log.new_requests()?;
        access_log.new_requests()?;
        router.set_shadow(true)?;
        let (mut copied, mut original) = (Seen::default(), Seen::default());
        let until = Instant::now() + self.settings.duration;
        let mut read = Ok(());
        while Instant::now() < until && read.is_ok() {
            tokio::time::sleep(PAUSE.min(until - Instant::now())).await;
            read = async {
                let requests = access_log.new_requests()?;
                candidate.reporter.report(&Event::Logged {
                    requests: &requests,
                });
                original.add(&Seen::of(candidate.color.other(), &requests));
                copied.add(&Seen::of(candidate.color, &shadow_log.new_requests()?));
                Ok(())
            }
            .await;
        }
        router.set_shadow(false)?;
        read.map(|()| [copied, original])
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
        if let Some(compared) = limit.compare_tails(&copied.latencies, &original.latencies) {
            let [ours, theirs] = compared.names();
            verdict = verdict
                .with(ours, compared.seconds)
                .with(theirs, compared.active_seconds);
            verdict.summary.push_str("; ");
            verdict.summary.push_str(&compared.to_string());
            if compared.exceeds && verdict.finding == Finding::Pass {
                verdict.finding = Finding::Fail;
            }
        }
        let labels = copied
            .labels
            .values()
            .sum::<u64>()
            .min(original.labels.values().sum());
        if labels >= min_requests {
            let drift = stability_of_labels(&original.labels, &copied.labels);
            verdict = verdict.with("label_drift", drift);
            if drift > max_label_drift {
                let _ = write!(
                    verdict.summary,
                    "; its labels are distributed otherwise than the active release's (population stability index {drift:.2}, at most {max_label_drift} allowed)"
                );
                if verdict.finding == Finding::Pass {
                    verdict.finding = Finding::Fail;
                }
            }
        }
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
