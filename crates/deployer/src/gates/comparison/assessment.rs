//! Judges latencies and failures that the gate `comparison` measured. Pure.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    config::ComparisonSettings,
    evidence::{
        details::Evidence,
        latency::{Latencies, LatencyLimit, milliseconds},
        statistics::{mcnemar, quantile_of_unsorted, ratio_of_quantiles},
        verdict::{Conclusion, Verdict},
    },
    ports::{PortError, Prediction},
};

/// The pairs that p50 needs.
pub(super) const ENOUGH_FOR_P50: usize = 20;
/// The pairs that p90 and p99 need: about ten, or five, are slower.
const ENOUGH_FOR_P90: usize = 100;
pub(super) const ENOUGH_FOR_P99: usize = 500;

/// A high percentile passes if it was measured within the limit, and is certainly below this many times the limit. To be
/// certain of the limit itself, most equal releases would need more pairs than the gate sends.
const TAIL_TOLERANCE: f64 = 3.0;

/// Significance level of failures.
const SIGNIFICANT: f64 = 0.01;

/// Seconds; both values of a pair have the same index. A failed request counts with the timeout, so that
/// failing slow requests does not look fast.
#[derive(Debug, Default)]
pub(super) struct Samples {
    pub(super) active: Vec<f64>,
    candidate: Vec<f64>,
    /// The mean time between tokens of the same pairs of streams, if both have one. The stream is what the statistics
    /// count, because the times within a stream are not independent.
    active_gaps: Vec<f64>,
    candidate_gaps: Vec<f64>,
    failed: u64,
    active_failed: u64,
    /// Pairs in which only the candidate's request failed, and pairs in which only the active release's did.
    lost: u64,
    won: u64,
    /// Whether the times are those to the first token.
    are_streams: bool,
    /// The candidate's errors by kind.
    errors: BTreeMap<String, u64>,
}

impl Samples {
    pub(super) fn add(
        &mut self,
        active: &Result<Prediction, PortError>,
        candidate: &Result<Prediction, PortError>,
        timeout: Duration,
    ) {
        let seconds = |answer: &Result<Prediction, PortError>| {
            let took = answer.as_ref().map_or(timeout, |answer| {
                // Answers of different length take different times, so the whole duration of a stream says nothing.
                let stream = answer.stream.as_ref();
                stream.map_or(answer.took, |times| times.to_first_token)
            });
            took.as_secs_f64()
        };
        let gap = |answer: &Result<Prediction, PortError>| {
            let stream = answer.as_ref().ok()?.stream.as_ref()?;
            Some(stream.mean_gap()?.as_secs_f64())
        };
        self.are_streams |= [active, candidate]
            .iter()
            .any(|answer| answer.as_ref().is_ok_and(|answer| answer.stream.is_some()));
        if let Some((active, candidate)) = gap(active).zip(gap(candidate)) {
            self.active_gaps.push(active);
            self.candidate_gaps.push(candidate);
        }
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

/// Judges the latencies and failures of both releases.
pub(super) fn assess(settings: &ComparisonSettings, samples: &Samples) -> Verdict {
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
    let [supported, unsupported] = percentiles(&PERCENTILES, pairs);
    for percentile in &supported {
        let what = if samples.are_streams {
            " to the first token"
        } else {
            ""
        };
        let series = [&samples.active[..], &samples.candidate];
        parts.push(compare(settings, series, percentile, what, &mut verdict));
    }
    let [supported_gaps, _] = percentiles(&GAP_PERCENTILES, samples.active_gaps.len());
    for percentile in supported_gaps {
        let series = [&samples.active_gaps[..], &samples.candidate_gaps];
        parts.push(compare(
            settings,
            series,
            percentile,
            " between tokens",
            &mut verdict,
        ));
    }
    if supported.is_empty() {
        let (conclusion, words) = compare_few(settings, samples);
        parts.push(words);
        verdict.conclusion = verdict.conclusion.and(conclusion);
    }
    for percentile in unsupported {
        // The time that the missing pairs take at the same pace.
        let seconds =
            settings.duration.as_secs_f64() * percentile.pairs as f64 / pairs.max(1) as f64;
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
fn compare_few(settings: &ComparisonSettings, samples: &Samples) -> (Conclusion, String) {
    let [candidate, active] =
        [&samples.candidate, &samples.active].map(|it| quantile_of_unsorted(it, 0.5));
    let conclusion = if candidate <= active {
        Conclusion::Pass
    } else {
        Conclusion::Inconclusive
    };
    let words = format!(
        "{} pairs of requests, at least {ENOUGH_FOR_P50} are needed to compare p50: {}, the active release's {}; comparison.duration is {}",
        samples.active.len(),
        milliseconds(candidate),
        milliseconds(active),
        humantime::format_duration(settings.duration),
    );
    (conclusion, words)
}

/// Compares one percentile, adds the result to the verdict, and returns it in words.
fn compare(
    settings: &ComparisonSettings,
    [active_seconds, candidate_seconds]: [&[f64]; 2],
    percentile: &Percentile,
    what: &str,
    verdict: &mut Verdict,
) -> String {
    let limit = LatencyLimit {
        max_ratio: settings.max_ratio,
        negligible: settings.negligible,
    };
    let Percentile {
        name, at, names, ..
    } = percentile;
    let (ratio, interval) = ratio_of_quantiles(candidate_seconds, active_seconds, *at);
    let active = quantile_of_unsorted(active_seconds, *at);
    let allowed = limit.allowed_ratio(active);
    let tolerance = if *at > 0.5 { TAIL_TOLERANCE } else { 1.0 };
    let within = ratio <= allowed && interval.high <= allowed * tolerance;
    let conclusion = if interval.low > allowed {
        Conclusion::Fail
    } else if within {
        Conclusion::Pass
    } else {
        Conclusion::Inconclusive
    };
    let words = format!(
        "{name}{what} {ratio:.2} times the active release's {} (99 % sure of {:.2} to {:.2}; {allowed:.2} allowed)",
        milliseconds(active),
        interval.low,
        interval.high,
    );
    // A difference that only `negligible` allows deserves a warning.
    if conclusion == Conclusion::Pass && interval.low > limit.max_ratio {
        verdict.warnings.push(format!(
            "{name}{what} is more than {:.2} times the active release's, and passes because {} more are negligible (comparison.negligible)",
            limit.max_ratio,
            milliseconds(limit.negligible.as_secs_f64())
        ));
    }
    verdict.conclusion = verdict.conclusion.and(conclusion);
    let figures = [ratio, interval.low, interval.high, allowed, active];
    verdict.numbers.extend(names.iter().copied().zip(figures));
    words
}

/// A percentile, the pairs that it needs, and the names of its figures.
struct Percentile {
    name: &'static str,
    at: f64,
    pairs: usize,
    names: [&'static str; 5],
}

macro_rules! percentile {
    ($name:literal, $at:literal, $pairs:expr) => {
        percentile!($name, $name, $at, $pairs)
    };
    ($name:literal, $figure:literal, $at:literal, $pairs:expr) => {
        Percentile {
            name: $name,
            at: $at,
            pairs: $pairs,
            names: [
                concat!($figure, "_ratio"),
                concat!($figure, "_ratio_low"),
                concat!($figure, "_ratio_high"),
                concat!($figure, "_ratio_limit"),
                concat!($figure, "_active_seconds"),
            ],
        }
    };
}

const PERCENTILES: [Percentile; 3] = [
    percentile!("p50", 0.5, ENOUGH_FOR_P50),
    percentile!("p90", 0.9, ENOUGH_FOR_P90),
    percentile!("p99", 0.99, ENOUGH_FOR_P99),
];

/// The same of the times between tokens.
const GAP_PERCENTILES: [Percentile; 3] = [
    percentile!("p50", "gap_p50", 0.5, ENOUGH_FOR_P50),
    percentile!("p90", "gap_p90", 0.9, ENOUGH_FOR_P90),
    percentile!("p99", "gap_p99", 0.99, ENOUGH_FOR_P99),
];

/// The percentiles to compare with this many pairs (p50, and the highest that they support), and the
/// percentiles that need more pairs.
fn percentiles(all: &'static [Percentile; 3], pairs: usize) -> [Vec<&'static Percentile>; 2] {
    let (mut supported, unsupported): (Vec<_>, Vec<_>) =
        all.iter().partition(|percentile| percentile.pairs <= pairs);
    if supported.len() > 2 {
        supported.remove(1);
    }
    [supported, unsupported]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a candidate whose latency is `ratio` times that of an active release. The active release
    /// takes about `base` seconds, and three times as long for one request in 50.
    fn judge(base: f64, ratio: f64, pairs: usize) -> Verdict {
        let mut random = fastrand::Rng::with_seed(7);
        let mut draw = |factor: f64| {
            let tail = if random.f64() < 0.02 { 3.0 } else { 1.0 };
            base * factor * tail * (0.9 + 0.2 * random.f64())
        };
        let samples = Samples {
            active: (0..pairs).map(|_| draw(1.0)).collect(),
            candidate: (0..pairs).map(|_| draw(ratio)).collect(),
            ..Samples::default()
        };
        assess(&settings(), &samples)
    }

    fn settings() -> ComparisonSettings {
        ComparisonSettings {
            max_ratio: 1.5,
            negligible: Duration::from_millis(5),
            duration: Duration::from_secs(10),
        }
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

    /// How many of 50 candidates pass that take `ratio` times as long as the active release. One request in 30 meets a
    /// busy machine, and takes longer by up to several times.
    fn passing(ratio: f64, pairs: usize) -> usize {
        let passes = |seed: &u64| {
            let mut random = fastrand::Rng::with_seed(*seed);
            let mut draw = |factor: f64| {
                let pause = if random.f64() < 0.03 {
                    -random.f64().max(1e-9).ln()
                } else {
                    0.0
                };
                0.025 * factor * (0.85 + 0.3 * random.f64() + pause)
            };
            let samples = Samples {
                active: (0..pairs).map(|_| draw(1.0)).collect(),
                candidate: (0..pairs).map(|_| draw(ratio)).collect(),
                ..Samples::default()
            };
            assess(&settings(), &samples).conclusion == Conclusion::Pass
        };
        (0..50).filter(passes).count()
    }

    #[test]
    fn equal_releases_pass_on_a_busy_machine_and_those_twice_as_slow_do_not() {
        for pairs in [ENOUGH_FOR_P90, ENOUGH_FOR_P99] {
            let [equal, twice] = [1.0, 2.0].map(|ratio| passing(ratio, pairs));
            assert!(equal >= 48, "{equal} with {pairs} pairs");
            assert_eq!(twice, 0, "{pairs} pairs");
        }
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
        assert_eq!(
            percentiles(&PERCENTILES, 500)[0].last().unwrap().name,
            "p99"
        );
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

    /// The verdict on a candidate that is as fast as the active release, and fails one request in `one_in`.
    fn judge_failures(one_in: usize, active_too: bool) -> Verdict {
        let mut samples = Samples::default();
        for number in 0..1_000 {
            let answer = |fails: bool| {
                if fails && number % one_in == 0 {
                    return Err(PortError::TimedOut("timed out".to_owned()));
                }
                Ok(Prediction {
                    label: None,
                    confidence: None,
                    took: Duration::from_millis(20),
                    stream: None,
                })
            };
            samples.add(&answer(active_too), &answer(true), Duration::from_secs(2));
        }
        assess(&settings(), &samples)
    }

    #[test]
    fn unanswered_requests_count_as_slow() {
        let verdict = judge_failures(50, false);
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
        assert_eq!(judge_failures(120, false).conclusion, Conclusion::Fail);
        assert_eq!(judge_failures(400, false).conclusion, Conclusion::Pass);
    }

    #[test]
    fn failures_of_both_releases_do_not_fail_the_gate() {
        assert_ne!(judge_failures(120, true).conclusion, Conclusion::Fail);
        assert_eq!(judge_failures(400, true).conclusion, Conclusion::Pass);
    }
}
