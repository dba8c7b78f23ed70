//! Is the candidate as fast as the active release?

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Candidate, Gate};
use crate::{
    config::ComparisonSettings,
    evidence::Evidence,
    examples::Example,
    latency::{Latencies, LatencyLimit, milliseconds},
    ports::{Target, WorldError},
    statistics::ratio_of_quantiles,
    verdict::{Finding, Verdict},
};

/// Where the answer is first looked at, since fewer say nothing; then whenever there are twice as many.
const FIRST_LOOK: usize = 20;
/// Fewer pairs say nothing of the slowest hundredth.
const ENOUGH_FOR_P99: usize = 500;
/// More pairs than this say hardly more.
const MOST: usize = 4_000;

/// Sends pairs of requests, one to each release, one at a time.
#[derive(Debug)]
pub struct Comparison {
    settings: ComparisonSettings,
}

impl Comparison {
    /// With this limit.
    #[must_use]
    pub fn new(settings: ComparisonSettings) -> Self {
        Self { settings }
    }

    fn assess(&self, samples: &Samples) -> Verdict {
        let limit = LatencyLimit {
            max_ratio: self.settings.max_ratio,
            negligible: self.settings.negligible,
        };
        let pairs = samples.active.len();
        let mut verdict = Verdict::new(Finding::Pass, String::new()).with("pairs", pairs as f64);
        let mut parts = Vec::new();
        for (name, at, [ratio_name, low_name, high_name, active_name]) in [
            (
                "p50",
                0.5,
                [
                    "p50_ratio",
                    "p50_ratio_low",
                    "p50_ratio_high",
                    "p50_active_seconds",
                ],
            ),
            (
                "p99",
                0.99,
                [
                    "p99_ratio",
                    "p99_ratio_low",
                    "p99_ratio_high",
                    "p99_active_seconds",
                ],
            ),
        ] {
            if name == "p99" && pairs < ENOUGH_FOR_P99 {
                verdict.warnings.push(format!(
                    "p99 was not compared: {pairs} pairs of requests, at least {ENOUGH_FOR_P99} are needed"
                ));
                continue;
            }
            let (ratio, interval) = ratio_of_quantiles(&samples.candidate, &samples.active, at);
            let active = samples.active_quantile(at);
            let allowed = limit.allowed_ratio(active);
            let finding = if interval.low > allowed {
                Finding::Fail
            } else if interval.high > allowed {
                Finding::Inconclusive
            } else {
                Finding::Pass
            };
            parts.push(format!(
                "{name} {ratio:.2} times the active release's {} (99 % sure of {:.2} to {:.2}; {allowed:.2} allowed)",
                milliseconds(active),
                interval.low,
                interval.high,
            ));
            verdict = verdict
                .with(ratio_name, ratio)
                .with(low_name, interval.low)
                .with(high_name, interval.high)
                .with(active_name, active);
            verdict.finding = match (verdict.finding, finding) {
                (Finding::Fail, _) | (_, Finding::Fail) => Finding::Fail,
                (Finding::Inconclusive, _) | (_, Finding::Inconclusive) => Finding::Inconclusive,
                _ => Finding::Pass,
            };
        }
        verdict.summary = parts.join(", ");
        verdict.resting_on(Evidence {
            active_latency: Some(Samples::latencies(&samples.active)),
            candidate_latency: Some(Samples::latencies(&samples.candidate)),
            ..Evidence::default()
        })
    }
}

/// Seconds, a pair at the same place.
#[derive(Debug, Default)]
struct Samples {
    active: Vec<f64>,
    candidate: Vec<f64>,
}

impl Samples {
    fn active_quantile(&self, at: f64) -> f64 {
        let mut sorted = self.active.clone();
        sorted.sort_by(f64::total_cmp);
        crate::statistics::quantile(&sorted, at)
    }

    fn latencies(seconds: &[f64]) -> Latencies {
        seconds
            .iter()
            .map(|it| Duration::from_secs_f64(*it))
            .collect()
    }
}

#[async_trait]
impl Gate for Comparison {
    fn name(&self) -> &'static str {
        "comparison"
    }

    fn compares(&self) -> bool {
        true
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let deadline = Instant::now() + self.settings.duration;
        let mut samples = Samples::default();
        let mut next_look = FIRST_LOOK;
        let mut failures = 0_usize;
        for (number, example) in candidate.examples.golden.iter().cycle().enumerate() {
            match ask_in_turn(candidate, example, number).await {
                Ok((active, candidate)) => {
                    samples.active.push(active);
                    samples.candidate.push(candidate);
                }
                // Whether requests succeed is for other gates to judge; but who never answers must
                // not keep this one.
                Err(error) if failures >= FIRST_LOOK => {
                    return Verdict::new(
                        Finding::Inconclusive,
                        format!("{failures} requests failed, the last one: {error}"),
                    );
                }
                Err(_) => failures += 1,
            }
            let pairs = samples.active.len();
            let over = Instant::now() >= deadline || pairs >= MOST;
            if !over && pairs < next_look {
                continue;
            }
            if over && pairs < FIRST_LOOK {
                return Verdict::new(
                    Finding::Inconclusive,
                    format!("{pairs} pairs of requests, at least {FIRST_LOOK} are needed"),
                )
                .with("pairs", pairs as f64);
            }
            let verdict = self.assess(&samples);
            let answered = pairs >= ENOUGH_FOR_P99 && verdict.finding != Finding::Inconclusive;
            if over || answered || verdict.finding == Finding::Fail {
                return verdict;
            }
            next_look *= 2;
        }
        Verdict::skipped("there are no inputs to send")
    }
}

/// Seconds that each release took, the active one first in every other pair, so that neither always
/// finds the machine as the other one left it.
async fn ask_in_turn(
    candidate: &Candidate<'_>,
    example: &Example,
    number: usize,
) -> Result<(f64, f64), WorldError> {
    let ask = async |color| {
        let answer = candidate
            .world
            .probe
            .predict(Target::Server(color), example)
            .await?;
        Ok::<f64, WorldError>(answer.took.as_secs_f64())
    };
    let (active, idle) = (candidate.color.other(), candidate.color);
    if number.is_multiple_of(2) {
        let active = ask(active).await?;
        Ok((active, ask(idle).await?))
    } else {
        let idle = ask(idle).await?;
        Ok((ask(active).await?, idle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a candidate that is so many times as slow as an active release of about
    /// `base` seconds, with a tail.
    fn judge(base: f64, slower: f64, pairs: usize) -> Verdict {
        let mut lots = fastrand::Rng::with_seed(7);
        let mut draw = |factor: f64| {
            let tail = if lots.f64() < 0.02 { 3.0 } else { 1.0 };
            base * factor * tail * (0.9 + 0.2 * lots.f64())
        };
        let samples = Samples {
            active: (0..pairs).map(|_| draw(1.0)).collect(),
            candidate: (0..pairs).map(|_| draw(slower)).collect(),
        };
        let settings = ComparisonSettings {
            max_ratio: 1.5,
            negligible: Duration::from_millis(5),
            duration: Duration::from_secs(10),
        };
        Comparison::new(settings).assess(&samples)
    }

    #[test]
    fn as_fast_passes_and_twice_as_slow_fails() {
        assert_eq!(judge(0.05, 1.0, 2_000).finding, Finding::Pass);
        let slow = judge(0.05, 2.0, 2_000);
        assert_eq!(slow.finding, Finding::Fail);
        assert!(slow.summary.starts_with("p50 2.0"), "{}", slow.summary);
        assert!(slow.numbers["p50_ratio_low"] > 1.9);
    }

    #[test]
    fn an_interval_that_straddles_the_limit_leaves_it_open() {
        assert_eq!(judge(0.05, 1.5, 2_000).finding, Finding::Inconclusive);
    }

    #[test]
    fn what_nobody_notices_is_allowed() {
        assert_eq!(judge(0.001, 2.0, 2_000).finding, Finding::Pass);
        assert_eq!(judge(0.001, 12.0, 2_000).finding, Finding::Fail);
    }

    #[test]
    fn few_pairs_say_nothing_of_the_slowest_hundredth() {
        let verdict = judge(0.05, 1.0, 200);
        assert_eq!(verdict.finding, Finding::Pass);
        assert!(
            verdict.warnings[0].starts_with("p99 was not compared"),
            "{:?}",
            verdict.warnings
        );
        assert!(!verdict.numbers.contains_key("p99_ratio"));
    }
}
