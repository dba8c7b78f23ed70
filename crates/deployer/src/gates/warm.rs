//! The gate `warm`: sends inputs again and again until the candidate's latency is level.
//!
//! A server that compiles, fills caches, or reads weights with its first requests is slow for a while. The gates that measure
//! latency come after this one.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    config::WarmSettings,
    evidence::{
        details::Evidence,
        latency::milliseconds,
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
    gates::gate::{Candidate, Gate},
    ports::Target,
};

/// Sends one request at a time, directly to the candidate.
#[derive(Debug)]
pub struct Warm {
    settings: WarmSettings,
}

impl Warm {
    /// Creates the gate with these bounds.
    #[must_use]
    pub fn new(settings: WarmSettings) -> Self {
        Self { settings }
    }

    fn verdict(
        &self,
        tally: Tally,
        times: &[f64],
        elapsed: Duration,
        error: Option<&str>,
    ) -> Verdict {
        let WarmSettings {
            window,
            max_error_rate,
            ..
        } = self.settings;
        let mut verdict = Verdict::of_error_rate(tally, max_error_rate, 1);
        if verdict.conclusion != Conclusion::Pass {
            verdict
                .summary
                .extend(["; for example: ", error.unwrap_or("no answer")]);
        }
        let first = median(&times[..window.min(times.len())]);
        verdict = verdict
            .with("seconds", elapsed.as_secs_f64())
            .with("window", window as f64)
            .with("first_median_seconds", first);
        if let Some(step) = Step::last(times, window) {
            verdict = verdict
                .with("median_seconds", step.last)
                .with("median_before_seconds", step.before)
                .with("noise_seconds", step.noise);
            if verdict.conclusion == Conclusion::Pass {
                verdict.summary = format!(
                    "{} after {} requests: median {}, at first {}",
                    if step.is_level() {
                        "level"
                    } else {
                        "not level"
                    },
                    tally.requests,
                    milliseconds(step.last),
                    milliseconds(first)
                );
            }
        }
        let is_level = Step::last(times, window).is_some_and(Step::is_level);
        if verdict.conclusion == Conclusion::Pass && !is_level {
            verdict.warnings.push(format!(
                "latency is not level after {} requests in {:.1} s, so the gates after this one may judge a release that still warms up; raise warm.requests or warm.duration",
                tally.requests,
                elapsed.as_secs_f64()
            ));
        }
        verdict.with_evidence(Evidence {
            curve: thinned(times),
            ..Evidence::default()
        })
    }
}

#[async_trait]
impl Gate for Warm {
    fn name(&self) -> &'static str {
        "warm"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let WarmSettings {
            window,
            requests,
            duration,
            ..
        } = self.settings;
        let target = Target::Server(candidate.color);
        // The same inputs in each window, so that medians differ by the server only.
        let inputs = candidate.examples.golden.iter().take(window).cycle();
        let began = Instant::now();
        let (mut tally, mut times, mut last_error) = (Tally::default(), Vec::new(), None);
        for example in inputs.take(requests as usize) {
            match candidate.ports.probe.predict(target, example).await {
                Ok(answer) => {
                    tally.count(true);
                    times.push(answer.took.as_secs_f64());
                }
                Err(error) => {
                    tally.count(false);
                    last_error = Some(error.to_string());
                }
            }
            let is_level = Step::last(&times, window).is_some_and(Step::is_level);
            // At the end of a window: more looks would find level what is not.
            if is_level && times.len().is_multiple_of(window) || began.elapsed() >= duration {
                break;
            }
        }
        self.verdict(tally, &times, began.elapsed(), last_error.as_deref())
    }
}

/// The medians of the last two windows, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    before: f64,
    last: f64,
    /// How far two medians of equal latencies may lie apart.
    noise: f64,
}

impl Step {
    /// The last step; `None` before two windows are full.
    fn last(times: &[f64], window: usize) -> Option<Self> {
        /// Three standard errors: 1 in 370 steps of a level latency is larger.
        const ERRORS: f64 = 3.0;
        /// A smaller change matters to no later gate.
        const SHARE: f64 = 0.05;
        const SECONDS: f64 = 0.000_2;

        let (rest, last) = times.split_at_checked(times.len().checked_sub(window)?)?;
        let (_, before) = rest.split_at_checked(rest.len().checked_sub(window)?)?;
        let error = standard_error(before).hypot(standard_error(last));
        let (before, last) = (median(before), median(last));
        let noise = (ERRORS * error).max(SHARE * before).max(SECONDS);
        Some(Self {
            before,
            last,
            noise,
        })
    }

    fn is_level(self) -> bool {
        (self.before - self.last).abs() <= self.noise
    }
}

/// The median; 0 of no values.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => 0.0,
        Some(upper) if sorted.len().is_multiple_of(2) => f64::midpoint(sorted[middle - 1], *upper),
        Some(middle) => *middle,
    }
}

/// The standard error of the median, by the median distance to it, which single slow answers do not change.
fn standard_error(values: &[f64]) -> f64 {
    /// Of a normal distribution: the standard deviation, in median distances.
    const DEVIATION: f64 = 1.482_6;
    /// The standard error of the median, in that of the mean.
    const OF_MEDIAN: f64 = 1.253_3;

    let middle = median(values);
    let distances: Vec<f64> = values.iter().map(|value| (value - middle).abs()).collect();
    OF_MEDIAN * DEVIATION * median(&distances) / (values.len().max(1) as f64).sqrt()
}

/// At most 200 values that draw the same curve: the medians of equal parts.
fn thinned(times: &[f64]) -> Vec<f64> {
    const MOST: usize = 200;

    let size = times.len().div_ceil(MOST).max(1);
    times.chunks(size).map(median).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: usize = 10;

    fn gate() -> Warm {
        Warm::new(WarmSettings {
            window: WINDOW,
            requests: 300,
            duration: Duration::from_secs(30),
            max_error_rate: 0.05,
        })
    }

    /// After how many answers the gate ends, with latencies by their number; `None` if it does not.
    fn level_after(latency: impl Fn(usize) -> f64) -> Option<usize> {
        let times: Vec<f64> = (0..300).map(latency).collect();
        (1..=30)
            .map(|windows| windows * WINDOW)
            .find(|answers| Step::last(&times[..*answers], WINDOW).is_some_and(Step::is_level))
    }

    /// Between 0 and 1, and the same each time.
    fn jitter(number: usize) -> f64 {
        (number * 7_919 % 101) as f64 / 101.0
    }

    #[test]
    fn level_latency_ends_after_two_windows() {
        assert_eq!(
            level_after(|number| 0.01 + 0.002 * jitter(number)),
            Some(20)
        );
        // One slow first answer, such as of a compilation.
        assert_eq!(
            level_after(|number| if number == 0 { 5.0 } else { 0.01 }),
            Some(20)
        );
        // A pause in each window.
        assert_eq!(
            level_after(|number| if number % 10 == 3 { 0.5 } else { 0.01 }),
            Some(20)
        );
    }

    #[test]
    fn falling_latency_is_not_level_until_it_stays() {
        let falling = |number: usize| {
            let fallen = 0.1 - 0.001 * number.min(80) as f64;
            fallen * (1.0 + 0.05 * jitter(number))
        };
        let after = level_after(falling).unwrap();
        assert!((90..=110).contains(&after), "{after}");
        let step = |number: usize| if number < 50 { 0.2 } else { 0.05 } + 0.001 * jitter(number);
        // Level before the step too: only time can tell.
        assert_eq!(level_after(step), Some(20));
    }

    #[test]
    fn latency_that_is_never_level_passes_with_a_warning() {
        let times: Vec<f64> = (0..300)
            .map(|number| 10.0 * 0.97_f64.powi(number))
            .collect();
        let tally = Tally {
            requests: 300,
            failed: 0,
        };
        let verdict = gate().verdict(tally, &times, Duration::from_secs(3), None);
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert!(verdict.warnings[0].starts_with("latency is not level after 300 requests"));
        assert!(verdict.evidence.curve.len() <= 200);
    }

    #[test]
    fn failing_requests_fail_the_gate() {
        let tally = Tally {
            requests: 20,
            failed: 2,
        };
        let verdict = gate().verdict(
            tally,
            &[0.01; 18],
            Duration::from_secs(1),
            Some("answered 500"),
        );
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert_eq!(
            verdict.summary,
            "2 of 20 requests failed (10.0 %, at most 5.0 % allowed); for example: answered 500"
        );
    }

    proptest! {
        #[test]
        fn median_lies_between_the_least_and_the_greatest(values in prop::collection::vec(0.0..1e3_f64, 1..50)) {
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let greatest = values.iter().copied().fold(0.0, f64::max);
            prop_assert!((least..=greatest).contains(&median(&values)));
        }
    }
}
