//! The gate `shadow`: how does the candidate answer copies of client requests?

use std::{fmt::Write as _, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    config::ShadowSettings,
    evidence::{
        details::Evidence,
        latency::{LatencyLimit, milliseconds},
        sample::{ENOUGH_LABELS, TrafficSample},
        statistics::{Z_99, drift_of_labels, wilson},
        verdict::{Conclusion, Verdict},
    },
    gates::gate::{Candidate, Gate},
    ports::{PortError, RequestLog},
};

/// Copies client requests to the candidate for a while and discards its answers.
#[derive(Debug)]
pub struct Shadow {
    settings: ShadowSettings,
}

impl Shadow {
    /// Creates the gate with these limits.
    #[must_use]
    pub fn new(settings: ShadowSettings) -> Self {
        Self { settings }
    }

    /// Returns what the candidate answered to copies, and what clients received at the same time.
    async fn mirror(
        &self,
        candidate: &Candidate<'_>,
        shadow_log: &dyn RequestLog,
    ) -> Result<[TrafficSample; 2], PortError> {
        let sample = self.copy(candidate, shadow_log).await;
        // Also after a failure, which may have turned the copies on.
        candidate.ports.flags.set_shadow(false).await?;
        sample
    }

    /// The same, without turning the copies off.
    async fn copy(
        &self,
        candidate: &Candidate<'_>,
        shadow_log: &dyn RequestLog,
    ) -> Result<[TrafficSample; 2], PortError> {
        const PAUSE: Duration = Duration::from_secs(1);

        let new_requests = async || {
            let requests = candidate.requests.new_requests().await;
            requests.unwrap_or_else(|| Ok(Vec::new()))
        };
        // Earlier log lines are not evidence about this candidate.
        let mut next = shadow_log.read(None).await?.next;
        new_requests().await?;
        candidate.ports.flags.set_shadow(true).await?;
        let (mut copied, mut original) = (TrafficSample::default(), TrafficSample::default());
        let until = Instant::now() + self.settings.duration;
        let mut missing = None;
        while Instant::now() < until {
            tokio::time::sleep(PAUSE.min(until - Instant::now())).await;
            let originals = new_requests().await?;
            original.add(&TrafficSample::of(candidate.color.other(), &originals));
            let part = shadow_log.read(Some(next)).await?;
            missing = part.missing;
            copied.add(&TrafficSample::of(candidate.color, &part.requests));
            next = part.next;
        }
        // A verdict would be about some of the routers only.
        missing.map_or(Ok([copied, original]), Err)
    }

    fn assess(
        &self,
        copied: &TrafficSample,
        original: &TrafficSample,
        before: &TrafficSample,
    ) -> Verdict {
        let mut verdict = self.judge_failures(copied);
        let slower = self.compare_latencies(copied, original, &mut verdict);
        let drifted = self.compare_labels(copied, original, &mut verdict);
        let several = copied.releases.are_several() && !original.releases.are_several();
        if several {
            let _ = write!(
                verdict.summary,
                "; several releases answer as the candidate, by x-model-version and x-model-digest: {}",
                copied.releases
            );
        }
        if (slower || drifted || several) && verdict.conclusion == Conclusion::Pass {
            verdict.conclusion = Conclusion::Fail;
        }
        add_cost_to_clients(before, original, &mut verdict);
        verdict.with_evidence(Evidence {
            active_latency: Some(original.latencies.clone()),
            candidate_latency: Some(copied.latencies.clone()),
            ..Evidence::default()
        })
    }

    fn judge_failures(&self, copied: &TrafficSample) -> Verdict {
        let limit = self.settings.max_error_rate;
        let mut verdict = Verdict::of_error_rate(copied.tally, limit, self.settings.min_requests);
        verdict.summary = format!("of copies, {}", verdict.summary);
        // A rate above the limit that chance explains proves nothing.
        if verdict.conclusion == Conclusion::Fail && wilson(copied.tally, Z_99).low <= limit {
            verdict.conclusion = Conclusion::Inconclusive;
        }
        verdict
    }

    /// Adds the latencies to the verdict. Returns whether the candidate is too slow.
    fn compare_latencies(
        &self,
        copied: &TrafficSample,
        original: &TrafficSample,
        verdict: &mut Verdict,
    ) -> bool {
        let limit = LatencyLimit {
            max_ratio: self.settings.max_ratio,
            negligible: self.settings.negligible,
        };
        let Some(compared) = limit.compare_tails(&copied.latencies, &original.latencies, Z_99)
        else {
            verdict.warnings.push(format!(
                "latency was not compared: {} copies and {} requests were answered",
                copied.latencies.count(),
                original.latencies.count()
            ));
            return false;
        };
        let [ours, theirs] = compared.names();
        verdict.numbers.insert(ours, compared.seconds);
        verdict.numbers.insert(theirs, compared.active_seconds);
        let _ = write!(verdict.summary, "; {compared}");
        compared.exceeds
    }

    /// Adds the drift of the labels to the verdict. Returns whether the labels drifted too far.
    fn compare_labels(
        &self,
        copied: &TrafficSample,
        original: &TrafficSample,
        verdict: &mut Verdict,
    ) -> bool {
        if copied.labels().min(original.labels()) < ENOUGH_LABELS {
            verdict.warnings.push(format!(
                "labels were not compared: {} of copies and {} of requests, {ENOUGH_LABELS} of each are needed",
                copied.labels(),
                original.labels()
            ));
            return false;
        }
        let limit = self.settings.max_label_drift;
        let drift = drift_of_labels(&original.labels, &copied.labels, 0.01);
        verdict.numbers.insert("label_drift", drift.index);
        verdict
            .numbers
            .insert("label_drift_by_chance", drift.by_chance);
        if drift.exceeds(limit) {
            let _ = write!(
                verdict.summary,
                "; its labels are distributed differently from the active release's (population stability index {:.2}, at most {limit} allowed, and {:.2} for chance)",
                drift.index, drift.by_chance
            );
        }
        drift.exceeds(limit)
    }
}

/// Adds how long clients waited before and during the copies.
fn add_cost_to_clients(before: &TrafficSample, during: &TrafficSample, verdict: &mut Verdict) {
    if before.waits.count() == 0 || during.waits.count() == 0 {
        return;
    }
    let [without, with] = [before, during].map(|sample| sample.waits.quantile(0.99).as_secs_f64());
    verdict.numbers.insert("client_p99_before_seconds", without);
    verdict.numbers.insert("client_p99_during_seconds", with);
    let _ = write!(
        verdict.summary,
        "; the clients' p99 was {} before the copies and {} during them",
        milliseconds(without),
        milliseconds(with)
    );
}

#[async_trait]
impl Gate for Shadow {
    fn name(&self) -> &'static str {
        "shadow"
    }

    fn needs_active(&self) -> bool {
        true
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let ports = candidate.ports;
        let (Some(shadow_log), Some(_)) = (&ports.shadow_log, &ports.request_log) else {
            return Verdict::skipped("router.access_log or router.shadow_log is not set");
        };
        match self.mirror(candidate, shadow_log.as_ref()).await {
            Ok([copied, original]) => self.assess(&copied, &original, candidate.before),
            Err(error) => Verdict::new(Conclusion::Inconclusive, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        color::Color,
        evidence::{
            answering_releases::AnsweringReleases,
            request::{Request, answered_by},
            tally::Tally,
        },
    };

    /// A sample with this many requests and failures. The other requests take this long, and `yes` of them have
    /// the label "yes".
    fn sample(requests: u64, failed: u64, milliseconds: u64, yes: u64) -> TrafficSample {
        let answered = requests - failed;
        let latencies = (0..answered).map(|_| Duration::from_millis(milliseconds));
        TrafficSample {
            tally: Tally { requests, failed },
            latencies: latencies.clone().collect(),
            waits: latencies.collect(),
            labels: BTreeMap::from([("yes".to_owned(), yes), ("no".to_owned(), answered - yes)]),
            ..TrafficSample::default()
        }
    }

    /// The verdict on these copies, next to 1,000 client requests of 20 ms each, half of them with the label "yes".
    fn judge(copied: &TrafficSample) -> Verdict {
        let settings = ShadowSettings {
            duration: Duration::from_secs(30),
            min_requests: 100,
            max_error_rate: 0.05,
            max_ratio: 2.0,
            negligible: Duration::from_millis(5),
            max_label_drift: 0.25,
        };
        let original = sample(1_000, 0, 20, 500);
        Shadow::new(settings).assess(copied, &original, &original)
    }

    #[test]
    fn copies_answered_like_originals_pass() {
        let verdict = judge(&sample(1_000, 10, 25, 500));
        assert_eq!(verdict.conclusion, Conclusion::Pass, "{}", verdict.summary);
        assert!(verdict.warnings.is_empty(), "{:?}", verdict.warnings);
        assert!(
            verdict.summary.ends_with(
                "the clients' p99 was 20.0 ms before the copies and 20.0 ms during them"
            ),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn failed_slow_or_drifting_copies_fail() {
        for (copied, expected) in [
            (
                sample(1_000, 100, 20, 450),
                "of copies, 100 of 1000 requests failed",
            ),
            (sample(1_000, 0, 60, 500), "p99 60"),
            (
                sample(1_000, 0, 20, 950),
                "its labels are distributed differently",
            ),
        ] {
            let verdict = judge(&copied);
            assert_eq!(verdict.conclusion, Conclusion::Fail, "{}", verdict.summary);
            assert!(verdict.summary.contains(expected), "{}", verdict.summary);
        }
    }

    #[test]
    fn copies_answered_by_several_releases_fail() {
        let mut releases = AnsweringReleases::default();
        for version in ["v1", "v2"] {
            let request = Request {
                version: Some(version.to_owned()),
                ..answered_by(Color::Green, 200)
            };
            releases.count(&request, Color::Green);
        }
        let verdict = judge(&TrafficSample {
            releases,
            ..sample(1_000, 0, 20, 500)
        });
        assert_eq!(verdict.conclusion, Conclusion::Fail, "{}", verdict.summary);
        assert!(
            verdict.summary.contains("several releases answer"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn copy_failures_within_chance_are_inconclusive() {
        let verdict = judge(&sample(200, 12, 20, 100));
        assert_eq!(
            verdict.conclusion,
            Conclusion::Inconclusive,
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn uncompared_copies_are_reported() {
        let warnings = judge(&sample(99, 0, 20, 50)).warnings;
        for expected in [
            "latency was not compared: 99",
            "labels were not compared: 99",
        ] {
            assert!(
                warnings.iter().any(|warning| warning.starts_with(expected)),
                "{warnings:?}"
            );
        }
    }
}
