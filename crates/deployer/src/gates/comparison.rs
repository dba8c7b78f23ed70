//! The gate `comparison`: is the candidate as fast as the active release?

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    config::ComparisonSettings,
    evidence::{
        details::Evidence,
        latency::{Latencies, LatencyLimit, milliseconds},
        statistics::{mcnemar, quantile_of_unsorted, ratio_of_quantiles},
        verdict::{Conclusion, Verdict},
    },
    examples::Example,
    gates::gate::{Candidate, Gate},
    ports::{PortError, Prediction, Target},
};

/// The least number of pairs for a percentile. The first verdict comes after this many pairs, each later one
/// after twice as many.
const FIRST_LOOK: usize = 20;
/// The pairs that p90 and p99 need: about ten, or five, are slower.
const ENOUGH_FOR_P90: usize = 100;
const ENOUGH_FOR_P99: usize = 500;
/// More pairs add little.
const MOST: usize = 4_000;

/// The gate continues for this many times `comparison.duration` while it is inconclusive or lacks pairs for
/// p99.
const PATIENCE: u32 = 3;
/// Significance level of failures.
const SIGNIFICANT: f64 = 0.01;

/// Sends pairs of requests, one to each release, one at a time.
#[derive(Debug)]
pub struct Comparison {
    settings: ComparisonSettings,
    timeout: Duration,
}

impl Comparison {
    /// Creates the gate with these limits. A request that takes longer than `timeout` has failed.
    #[must_use]
    pub fn new(settings: ComparisonSettings, timeout: Duration) -> Self {
        Self { settings, timeout }
    }

    fn assess(&self, samples: &Samples) -> Verdict {
        let pairs = samples.active.len();
        let mut verdict = Verdict::new(Conclusion::Pass, String::new())
            .with("pairs", pairs as f64)
            .with("failed", samples.failed as f64)
            .with("active_failed", samples.active_failed as f64);
        let mut parts = Vec::new();
        let chance = mcnemar(samples.lost, samples.won);
        if samples.failed + samples.active_failed > 0 {
            parts.push(format!(
                "{} of {pairs} requests failed, and {} of the active release's",
                samples.failed, samples.active_failed
            ));
            verdict = verdict.with("p_value", chance);
        }
        if chance < SIGNIFICANT {
            verdict.conclusion = Conclusion::Fail;
        }
        let [supported, unsupported] = percentiles(pairs);
        for percentile in &supported {
            let (conclusion, words);
            (conclusion, words, verdict) = self.compare(samples, percentile, verdict);
            parts.push(words);
            verdict.conclusion = verdict.conclusion.and(conclusion);
        }
        if supported.is_empty() {
            let (conclusion, words) = self.compare_few(samples);
            parts.push(words);
            verdict.conclusion = verdict.conclusion.and(conclusion);
        }
        for percentile in unsupported {
            // The time that the missing pairs take at the same pace.
            let seconds = self.settings.duration.as_secs_f64() * percentile.pairs as f64
                / pairs.max(1) as f64;
            verdict.warnings.push(format!(
                "{} was not judged: it needs {} pairs of requests, and {pairs} were sent. The bake judges it; so does this gate with comparison.duration = \"{:.0}s\"",
                percentile.name, percentile.pairs, seconds.ceil()
            ));
        }
        verdict.summary = parts.join(", ");
        verdict.with_evidence(Evidence {
            active_latency: Some(Samples::latencies(&samples.active)),
            candidate_latency: Some(Samples::latencies(&samples.candidate)),
            errors: samples.errors.clone(),
            ..Evidence::default()
        })
    }

    /// Judges fewer pairs than p50 needs: the candidate passes if its median is not above the active release's.
    fn compare_few(&self, samples: &Samples) -> (Conclusion, String) {
        let [candidate, active] =
            [&samples.candidate, &samples.active].map(|it| quantile_of_unsorted(it, 0.5));
        let conclusion = if candidate <= active {
            Conclusion::Pass
        } else {
            Conclusion::Inconclusive
        };
        let words = format!(
            "{} pairs of requests, at least {FIRST_LOOK} are needed to compare p50: {}, the active release's {}; comparison.duration is {}",
            samples.active.len(),
            milliseconds(candidate),
            milliseconds(active),
            humantime::format_duration(self.settings.duration),
        );
        (conclusion, words)
    }

    fn compare(
        &self,
        samples: &Samples,
        percentile: &Percentile,
        verdict: Verdict,
    ) -> (Conclusion, String, Verdict) {
        let limit = LatencyLimit {
            max_ratio: self.settings.max_ratio,
            negligible: self.settings.negligible,
        };
        let Percentile {
            name, at, names, ..
        } = percentile;
        let (ratio, interval) = ratio_of_quantiles(&samples.candidate, &samples.active, *at);
        let active = quantile_of_unsorted(&samples.active, *at);
        let allowed = limit.allowed_ratio(active);
        let conclusion = if interval.low > allowed {
            Conclusion::Fail
        } else if interval.high > allowed {
            Conclusion::Inconclusive
        } else {
            Conclusion::Pass
        };
        let words = format!(
            "{name} {ratio:.2} times the active release's {} (99 % sure of {:.2} to {:.2}; {allowed:.2} allowed)",
            milliseconds(active),
            interval.low,
            interval.high,
        );
        // A difference that only `negligible` allows deserves a warning.
        let mut verdict = verdict;
        if conclusion == Conclusion::Pass && interval.low > limit.max_ratio {
            verdict.warnings.push(format!(
                "{name} is more than {:.2} times the active release's, and passes because {} more are negligible (comparison.negligible)",
                limit.max_ratio,
                milliseconds(limit.negligible.as_secs_f64())
            ));
        }
        let figures = [ratio, interval.low, interval.high, active];
        let verdict = names
            .iter()
            .zip(figures)
            .fold(verdict, |verdict, (name, figure)| {
                verdict.with(name, figure)
            });
        (conclusion, words, verdict)
    }
}

/// A percentile, the pairs that it needs, and the names of its figures.
struct Percentile {
    name: &'static str,
    at: f64,
    pairs: usize,
    names: [&'static str; 4],
}

macro_rules! percentile {
    ($name:literal, $at:literal, $pairs:expr) => {
        Percentile {
            name: $name,
            at: $at,
            pairs: $pairs,
            names: [
                concat!($name, "_ratio"),
                concat!($name, "_ratio_low"),
                concat!($name, "_ratio_high"),
                concat!($name, "_active_seconds"),
            ],
        }
    };
}

const PERCENTILES: [Percentile; 3] = [
    percentile!("p50", 0.5, FIRST_LOOK),
    percentile!("p90", 0.9, ENOUGH_FOR_P90),
    percentile!("p99", 0.99, ENOUGH_FOR_P99),
];

/// The percentiles to compare with this many pairs (p50, and the highest that they support), and the
/// percentiles that need more pairs.
fn percentiles(pairs: usize) -> [Vec<&'static Percentile>; 2] {
    let (mut supported, unsupported): (Vec<_>, Vec<_>) = PERCENTILES
        .iter()
        .partition(|percentile| percentile.pairs <= pairs);
    if supported.len() > 2 {
        supported.remove(1);
    }
    [supported, unsupported]
}

/// Seconds; both values of a pair have the same index. A failed request counts with the timeout, so that
/// failing slow requests does not look fast.
#[derive(Debug, Default)]
struct Samples {
    active: Vec<f64>,
    candidate: Vec<f64>,
    failed: u64,
    active_failed: u64,
    /// Pairs in which only the candidate's request failed, and pairs in which only the active release's did.
    lost: u64,
    won: u64,
    /// The candidate's errors by kind.
    errors: BTreeMap<String, u64>,
}

impl Samples {
    fn add(
        &mut self,
        active: &Result<Prediction, PortError>,
        candidate: &Result<Prediction, PortError>,
        timeout: Duration,
    ) {
        let seconds = |answer: &Result<Prediction, PortError>| {
            let took = answer.as_ref().map_or(timeout, |answer| answer.took);
            took.as_secs_f64()
        };
        self.active.push(seconds(active));
        self.candidate.push(seconds(candidate));
        self.failed += u64::from(candidate.is_err());
        self.active_failed += u64::from(active.is_err());
        self.lost += u64::from(candidate.is_err() && active.is_ok());
        self.won += u64::from(candidate.is_ok() && active.is_err());
        if let Err(error) = candidate {
            *self.errors.entry(error.to_string()).or_default() += 1;
        }
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

    fn needs_active(&self) -> bool {
        true
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let began = Instant::now();
        let mut samples = Samples::default();
        let mut deadline = self.settings.duration;
        let mut next_look = FIRST_LOOK;
        for (number, example) in candidate.examples.golden.iter().cycle().enumerate() {
            let [active, idle] = ask_in_turn(candidate, example, number).await;
            samples.add(&active, &idle, self.timeout);
            let pairs = samples.active.len();
            let over = began.elapsed() >= deadline || pairs >= MOST;
            if !over && pairs < next_look {
                continue;
            }
            let verdict = self.assess(&samples);
            let few = pairs < ENOUGH_FOR_P99;
            if over {
                let open = verdict.conclusion == Conclusion::Inconclusive || few;
                if open && pairs < MOST && deadline == self.settings.duration {
                    deadline *= PATIENCE;
                    continue;
                }
                return verdict;
            }
            // A pass is final after p99 was compared. Until then more pairs may come.
            if verdict.conclusion == Conclusion::Fail
                || verdict.conclusion == Conclusion::Pass && !few
            {
                return verdict;
            }
            let twice = next_look * 2;
            next_look = if few && twice > ENOUGH_FOR_P99 {
                ENOUGH_FOR_P99
            } else {
                twice
            };
        }
        Verdict::skipped("there are no inputs to send")
    }
}

/// Sends the active release's request first in every other pair, so that no release always finds the machine as
/// the other left it.
async fn ask_in_turn(
    candidate: &Candidate<'_>,
    example: &Example,
    number: usize,
) -> [Result<Prediction, PortError>; 2] {
    let probe = &candidate.ports.probe;
    let ask = |color| probe.predict(Target::Server(color), example);
    let (active, idle) = (candidate.color.other(), candidate.color);
    if number.is_multiple_of(2) {
        let active = ask(active).await;
        [active, ask(idle).await]
    } else {
        let idle = ask(idle).await;
        [ask(active).await, idle]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a candidate with this latency ratio to an active release of about `base` seconds, with a
    /// tail.
    fn judge(base: f64, slower: f64, pairs: usize) -> Verdict {
        let mut lots = fastrand::Rng::with_seed(7);
        let mut draw = |factor: f64| {
            let tail = if lots.f64() < 0.02 { 3.0 } else { 1.0 };
            base * factor * tail * (0.9 + 0.2 * lots.f64())
        };
        let samples = Samples {
            active: (0..pairs).map(|_| draw(1.0)).collect(),
            candidate: (0..pairs).map(|_| draw(slower)).collect(),
            ..Samples::default()
        };
        comparison().assess(&samples)
    }

    fn comparison() -> Comparison {
        let settings = ComparisonSettings {
            max_ratio: 1.5,
            negligible: Duration::from_millis(5),
            duration: Duration::from_secs(10),
        };
        Comparison::new(settings, Duration::from_secs(2))
    }

    #[test]
    fn equal_latency_passes_and_double_latency_fails() {
        assert_eq!(judge(0.05, 1.0, 2_000).conclusion, Conclusion::Pass);
        let slow = judge(0.05, 2.0, 2_000);
        assert_eq!(slow.conclusion, Conclusion::Fail);
        assert!(slow.summary.starts_with("p50 2.0"), "{}", slow.summary);
        assert!(slow.numbers["p50_ratio_low"] > 1.9);
    }

    #[test]
    fn interval_containing_the_limit_is_inconclusive() {
        assert_eq!(judge(0.05, 1.5, 2_000).conclusion, Conclusion::Inconclusive);
    }

    #[test]
    fn negligible_latency_difference_passes() {
        assert_eq!(judge(0.001, 2.0, 2_000).conclusion, Conclusion::Pass);
        assert_eq!(judge(0.001, 12.0, 2_000).conclusion, Conclusion::Fail);
    }

    #[test]
    fn highest_supported_percentile_is_compared() {
        let compared = |pairs| {
            let verdict = judge(0.05, 1.0, pairs);
            let names = ["p50_ratio", "p90_ratio", "p99_ratio"];
            let compared = names.map(|name| verdict.numbers.contains_key(name));
            (verdict.conclusion, compared, verdict.warnings)
        };
        let (conclusion, names, warnings) = compared(99);
        assert_eq!(
            (conclusion, names),
            (Conclusion::Pass, [true, false, false])
        );
        assert_eq!(
            warnings[0],
            "p90 was not judged: it needs 100 pairs of requests, and 99 were sent. The bake judges it; so does this gate with comparison.duration = \"11s\""
        );
        assert!(warnings[1].starts_with("p99 was not judged: it needs 500 pairs"));
        let (conclusion, names, warnings) = compared(499);
        assert_eq!((conclusion, names), (Conclusion::Pass, [true, true, false]));
        assert_eq!(warnings.len(), 1);
        let (conclusion, names, warnings) = compared(2_000);
        assert_eq!((conclusion, names), (Conclusion::Pass, [true, false, true]));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(percentiles(500)[0].last().unwrap().name, "p99");
    }

    #[test]
    fn faster_candidate_passes_with_any_number_of_pairs() {
        for pairs in [1, 3, 19, 20, 99, 100, 463] {
            let verdict = judge(0.05, 0.33, pairs);
            assert_eq!(verdict.conclusion, Conclusion::Pass, "{pairs}: {verdict:?}");
        }
    }

    #[test]
    fn slower_candidate_is_inconclusive_with_fewer_pairs_than_p50_needs() {
        let verdict = judge(0.05, 1.4, 19);
        assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
        assert!(
            verdict
                .summary
                .starts_with("19 pairs of requests, at least 20 are needed"),
            "{}",
            verdict.summary
        );
    }

    /// The verdict on a candidate that is as fast as the active release, but fails one request in this many.
    fn failing(one_in: usize, active_too: bool) -> Verdict {
        let mut samples = Samples::default();
        for number in 0..1_000 {
            let answer = |fails: bool| {
                if fails && number % one_in == 0 {
                    return Err(PortError("timed out".to_owned()));
                }
                Ok(Prediction {
                    label: None,
                    confidence: None,
                    took: Duration::from_millis(20),
                })
            };
            samples.add(&answer(active_too), &answer(true), Duration::from_secs(2));
        }
        comparison().assess(&samples)
    }

    #[test]
    fn unanswered_requests_count_as_slow() {
        let verdict = failing(50, false);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(
            verdict
                .summary
                .starts_with("20 of 1000 requests failed, and 0 of the active release's"),
            "{}",
            verdict.summary
        );
        assert!(verdict.numbers["p99_ratio"] > 90.0);
        assert_eq!(verdict.evidence.errors["timed out"], 20);
    }

    #[test]
    fn failures_too_rare_for_p99_count_beyond_chance() {
        assert_eq!(failing(120, false).conclusion, Conclusion::Fail);
        assert_eq!(failing(400, false).conclusion, Conclusion::Pass);
    }

    #[test]
    fn failures_of_both_releases_do_not_fail_the_gate() {
        assert_ne!(failing(120, true).conclusion, Conclusion::Fail);
        assert_eq!(failing(400, true).conclusion, Conclusion::Pass);
    }
}
