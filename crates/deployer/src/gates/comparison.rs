//! Is the candidate as fast as the active release?

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Candidate, Gate};
use crate::{
    config::ComparisonSettings,
    evidence::Evidence,
    examples::Example,
    latency::{Latencies, LatencyLimit, milliseconds},
    ports::{Answer, Target, WorldError},
    statistics::{mcnemar, quantile_of_unsorted, ratio_of_quantiles},
    verdict::{Finding, Verdict},
};

/// Fewer pairs say nothing of any percentile. The first look is after so many, each later one after twice as many.
const FIRST_LOOK: usize = 20;
/// Pairs that p90 needs, and p99: so many that ten and five of them are slower.
const ENOUGH_FOR_P90: usize = 100;
const ENOUGH_FOR_P99: usize = 500;
/// More pairs than this say hardly more.
const MOST: usize = 4_000;

/// The gate goes on for so many times `comparison.duration` while it is inconclusive or lacks pairs for p99.
const PATIENCE: u32 = 3;
/// Failures that chance alone would bring about more often than this are held against nobody.
const SIGNIFICANT: f64 = 0.01;

/// Sends pairs of requests, one to each release, one at a time.
#[derive(Debug)]
pub struct Comparison {
    settings: ComparisonSettings,
    timeout: Duration,
}

impl Comparison {
    /// With this limit, of requests that have failed when they take longer than `timeout`.
    #[must_use]
    pub fn new(settings: ComparisonSettings, timeout: Duration) -> Self {
        Self { settings, timeout }
    }

    fn assess(&self, samples: &Samples) -> Verdict {
        let pairs = samples.active.len();
        let mut verdict = Verdict::new(Finding::Pass, String::new())
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
            verdict.finding = Finding::Fail;
        }
        let [supported, unsupported] = percentiles(pairs);
        for percentile in &supported {
            let (finding, words);
            (finding, words, verdict) = self.compare(samples, percentile, verdict);
            parts.push(words);
            verdict.finding = verdict.finding.and(finding);
        }
        if supported.is_empty() {
            let (finding, words) = self.compare_few(samples);
            parts.push(words);
            verdict.finding = verdict.finding.and(finding);
        }
        for percentile in unsupported {
            // At the same pace, so many seconds bring the pairs that it needs.
            let seconds = self.settings.duration.as_secs_f64() * percentile.pairs as f64
                / pairs.max(1) as f64;
            verdict.warnings.push(format!(
                "{} was not judged: it needs {} pairs of requests, and {pairs} were sent. The watch after the switch judges it; so does this gate with comparison.duration = \"{:.0}s\"",
                percentile.name, percentile.pairs, seconds.ceil()
            ));
        }
        verdict.summary = parts.join(", ");
        verdict.resting_on(Evidence {
            active_latency: Some(Samples::latencies(&samples.active)),
            candidate_latency: Some(Samples::latencies(&samples.candidate)),
            errors: samples.errors.clone(),
            ..Evidence::default()
        })
    }

    /// Judges fewer pairs than p50 needs: a candidate passes whose median is not above the active release's.
    fn compare_few(&self, samples: &Samples) -> (Finding, String) {
        let [candidate, active] =
            [&samples.candidate, &samples.active].map(|it| quantile_of_unsorted(it, 0.5));
        let finding = if candidate <= active {
            Finding::Pass
        } else {
            Finding::Inconclusive
        };
        let words = format!(
            "{} pairs of requests, at least {FIRST_LOOK} are needed to compare p50: {}, the active release's {}; comparison.duration is {}",
            samples.active.len(),
            milliseconds(candidate),
            milliseconds(active),
            humantime::format_duration(self.settings.duration),
        );
        (finding, words)
    }

    fn compare(
        &self,
        samples: &Samples,
        percentile: &Percentile,
        verdict: Verdict,
    ) -> (Finding, String, Verdict) {
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
        let finding = if interval.low > allowed {
            Finding::Fail
        } else if interval.high > allowed {
            Finding::Inconclusive
        } else {
            Finding::Pass
        };
        let words = format!(
            "{name} {ratio:.2} times the active release's {} (99 % sure of {:.2} to {:.2}; {allowed:.2} allowed)",
            milliseconds(active),
            interval.low,
            interval.high,
        );
        // What only `negligible` lets through is worth a look.
        let mut verdict = verdict;
        if finding == Finding::Pass && interval.low > limit.max_ratio {
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
        (finding, words, verdict)
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

/// The percentiles that are compared with so many pairs, p50 and the highest that they support, and those that
/// need more pairs.
fn percentiles(pairs: usize) -> [Vec<&'static Percentile>; 2] {
    let (mut supported, unsupported): (Vec<_>, Vec<_>) = PERCENTILES
        .iter()
        .partition(|percentile| percentile.pairs <= pairs);
    if supported.len() > 2 {
        supported.remove(1);
    }
    [supported, unsupported]
}

/// Seconds, a pair at the same place. What failed took as long as would have been waited for: who answers
/// only what is quick must not seem to be quick.
#[derive(Debug, Default)]
struct Samples {
    active: Vec<f64>,
    candidate: Vec<f64>,
    failed: u64,
    active_failed: u64,
    /// Pairs of which the candidate's alone failed, and the active release's alone.
    lost: u64,
    won: u64,
    /// What went wrong at the candidate.
    errors: BTreeMap<String, u64>,
}

impl Samples {
    fn add(
        &mut self,
        active: &Result<Answer, WorldError>,
        candidate: &Result<Answer, WorldError>,
        timeout: Duration,
    ) {
        let seconds = |answer: &Result<Answer, WorldError>| {
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

    fn compares(&self) -> bool {
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
                let open = verdict.finding == Finding::Inconclusive || few;
                if open && pairs < MOST && deadline == self.settings.duration {
                    deadline *= PATIENCE;
                    continue;
                }
                return verdict;
            }
            // A pass is final once p99 was compared: until then more pairs may come in time.
            if verdict.finding == Finding::Fail || verdict.finding == Finding::Pass && !few {
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

/// What each release answers, the active one first in every other pair, so that neither always finds the
/// machine as the other one left it.
async fn ask_in_turn(
    candidate: &Candidate<'_>,
    example: &Example,
    number: usize,
) -> [Result<Answer, WorldError>; 2] {
    let probe = &candidate.world.probe;
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
    fn highest_percentile_that_pairs_support_is_compared_and_the_others_are_named() {
        let compared = |pairs| {
            let verdict = judge(0.05, 1.0, pairs);
            let names = ["p50_ratio", "p90_ratio", "p99_ratio"];
            let compared = names.map(|name| verdict.numbers.contains_key(name));
            (verdict.finding, compared, verdict.warnings)
        };
        let (finding, names, warnings) = compared(99);
        assert_eq!((finding, names), (Finding::Pass, [true, false, false]));
        assert_eq!(
            warnings[0],
            "p90 was not judged: it needs 100 pairs of requests, and 99 were sent. The watch after the switch judges it; so does this gate with comparison.duration = \"11s\""
        );
        assert!(warnings[1].starts_with("p99 was not judged: it needs 500 pairs"));
        let (finding, names, warnings) = compared(499);
        assert_eq!((finding, names), (Finding::Pass, [true, true, false]));
        assert_eq!(warnings.len(), 1);
        let (finding, names, warnings) = compared(2_000);
        assert_eq!((finding, names), (Finding::Pass, [true, false, true]));
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(percentiles(500)[0].last().unwrap().name, "p99");
    }

    #[test]
    fn faster_candidate_passes_with_any_number_of_pairs() {
        for pairs in [1, 3, 19, 20, 99, 100, 463] {
            let verdict = judge(0.05, 0.33, pairs);
            assert_eq!(verdict.finding, Finding::Pass, "{pairs}: {verdict:?}");
        }
    }

    #[test]
    fn slower_candidate_is_inconclusive_with_fewer_pairs_than_p50_needs() {
        let verdict = judge(0.05, 1.4, 19);
        assert_eq!(verdict.finding, Finding::Inconclusive);
        assert!(
            verdict
                .summary
                .starts_with("19 pairs of requests, at least 20 are needed"),
            "{}",
            verdict.summary
        );
    }

    /// The verdict on a candidate that is as fast as the active release, but fails one in so many requests.
    fn failing(one_in: usize, active_too: bool) -> Verdict {
        let mut samples = Samples::default();
        for number in 0..1_000 {
            let answer = |fails: bool| {
                if fails && number % one_in == 0 {
                    return Err(WorldError("timed out".to_owned()));
                }
                Ok(Answer {
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
    fn a_tail_that_is_never_answered_is_a_tail() {
        let verdict = failing(50, false);
        assert_eq!(verdict.finding, Finding::Fail);
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
        assert_eq!(failing(120, false).finding, Finding::Fail);
        assert_eq!(failing(400, false).finding, Finding::Pass);
    }

    #[test]
    fn what_fails_at_both_is_held_against_neither() {
        assert_ne!(failing(120, true).finding, Finding::Fail);
        assert_eq!(failing(400, true).finding, Finding::Pass);
    }
}
