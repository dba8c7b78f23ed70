//! Latencies in a high dynamic range histogram.

use std::{fmt, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::evidence::{statistics::bounds_of_quantile, tally::Tally};

/// From 1 µs to 1 h, with three significant digits. A latency outside counts as the nearest bound.
#[derive(Debug, Clone, PartialEq)]
pub struct Latencies(Histogram<u64>);

const SHORTEST_NANOSECONDS: u64 = 1_000;
const LONGEST_NANOSECONDS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;

/// A bin of a histogram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// Lower bound in seconds, exclusive.
    pub from: f64,
    /// Upper bound in seconds, inclusive.
    pub to: f64,
    /// The number of latencies.
    pub count: u64,
}

impl Default for Latencies {
    /// Creates an empty histogram that grows.
    fn default() -> Self {
        let histogram =
            Histogram::new_with_bounds(SHORTEST_NANOSECONDS, 2 * SHORTEST_NANOSECONDS, DIGITS);
        let mut histogram = histogram.expect("the bounds are in order");
        histogram.auto(true);
        Self(histogram)
    }
}

impl Latencies {
    /// Adds one latency.
    #[expect(
        clippy::missing_panics_doc,
        reason = "it grows to the longest there is"
    )]
    pub fn record(&mut self, latency: Duration) {
        self.0
            .record(nanoseconds(latency))
            .expect("it grows to the longest there is");
    }

    /// Adds all latencies of `other`.
    #[expect(
        clippy::missing_panics_doc,
        reason = "it grows to the longest there is"
    )]
    pub fn add(&mut self, other: &Self) {
        self.0
            .add(&other.0)
            .expect("it grows to the longest there is");
    }

    /// The number of latencies.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The latency that a share of `quantile` (0–1) does not exceed; 0 if empty.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        if self.0.is_empty() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.0.value_at_quantile(quantile))
    }

    /// How many exceed `limit`.
    #[must_use]
    pub fn count_above(&self, limit: Duration) -> u64 {
        let within = self.0.count_between(0, nanoseconds(limit));
        self.count() - within
    }

    /// All, and those that exceed `limit` as failures.
    #[must_use]
    pub fn longer_than(&self, limit: Duration) -> Tally {
        Tally {
            requests: self.count(),
            failed: self.count_above(limit),
        }
    }

    /// The mean; 0 if empty.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e9)
    }

    /// The longest latency.
    #[must_use]
    pub fn worst(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }

    /// The latencies that requests at even intervals would have had.
    ///
    /// A client that waits for an answer sends nothing while the server is stuck, and counts one slow request
    /// where users would have met many (Gil Tene, "coordinated omission"). The missing requests are added.
    #[must_use]
    pub fn corrected(&self, interval: Duration) -> Self {
        Self(self.0.clone_correct(nanoseconds(interval)))
    }

    /// The distribution in bins of a tenth of a decade, without empty bins.
    #[must_use]
    pub fn bins(&self) -> Vec<Bin> {
        const PER_DECADE: f64 = 10.0;

        let mut bins: Vec<Bin> = Vec::new();
        for recorded in self.0.iter_recorded() {
            let seconds = recorded.value_iterated_to() as f64 / 1e9;
            let step = (seconds.log10() * PER_DECADE).ceil();
            let to = 10_f64.powf(step / PER_DECADE);
            let count = recorded.count_at_value();
            match bins.last_mut() {
                Some(last) if (last.to - to).abs() < to * 1e-9 => last.count += count,
                _ => bins.push(Bin {
                    from: 10_f64.powf((step - 1.0) / PER_DECADE),
                    to,
                    count,
                }),
            }
        }
        bins
    }
}

impl FromIterator<Duration> for Latencies {
    fn from_iter<I: IntoIterator<Item = Duration>>(latencies: I) -> Self {
        let mut all = Self::default();
        all.extend(latencies);
        all
    }
}

impl Extend<Duration> for Latencies {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, latencies: I) {
        for latency in latencies {
            self.record(latency);
        }
    }
}

/// How much longer than the active release a candidate may take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LatencyLimit {
    /// The allowed ratio, at least 1.
    pub max_ratio: f64,
    /// The difference that is always allowed.
    pub negligible: Duration,
}

/// A high percentile of both releases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComparedTail {
    /// The percentile: 99, or 90 if there were too few requests.
    pub percentile: u8,
    /// The candidate's, in seconds.
    pub seconds: f64,
    /// The active release's, in seconds.
    pub active_seconds: f64,
    /// The allowed ratio.
    pub allowed_ratio: f64,
    /// Whether the candidate takes longer than allowed, beyond chance.
    pub exceeds: bool,
}

impl LatencyLimit {
    /// The least number of requests for p90.
    const ENOUGH: [(u64, u8); 2] = [(Self::ENOUGH_FOR_P99, 99), (100, 90)];
    /// The least number of requests for p99.
    pub const ENOUGH_FOR_P99: u64 = 500;

    /// The allowed ratio to an active release that takes `active` seconds.
    #[must_use]
    pub fn allowed_ratio(&self, active: f64) -> f64 {
        if active > 0.0 {
            self.max_ratio
                .max(1.0 + self.negligible.as_secs_f64() / active)
        } else {
            f64::INFINITY
        }
    }

    /// Compares a high percentile; `None` if either side has fewer than 100 requests. `z` is the standard normal quantile
    /// of the confidence.
    #[must_use]
    pub fn compare_tails(
        &self,
        candidate: &Latencies,
        active: &Latencies,
        z: f64,
    ) -> Option<ComparedTail> {
        let fewer = candidate.count().min(active.count());
        let (_, percentile) = Self::ENOUGH
            .into_iter()
            .find(|(enough, _)| fewer >= *enough)?;
        let at = f64::from(percentile) / 100.0;
        let seconds = |latencies: &Latencies, at| latencies.quantile(at).as_secs_f64();
        let active_seconds = seconds(active, at);
        let allowed_ratio = self.allowed_ratio(active_seconds);
        let least = seconds(candidate, bounds_of_quantile(candidate.count(), at, z).low);
        let most = seconds(active, bounds_of_quantile(active.count(), at, z).high);
        Some(ComparedTail {
            percentile,
            seconds: seconds(candidate, at),
            active_seconds,
            allowed_ratio,
            exceeds: least > most * allowed_ratio,
        })
    }
}

impl ComparedTail {
    /// The names of both figures, the candidate's first.
    #[must_use]
    pub fn names(&self) -> [&'static str; 2] {
        match self.percentile {
            99 => ["p99_seconds", "active_p99_seconds"],
            _ => ["p90_seconds", "active_p90_seconds"],
        }
    }
}

impl fmt::Display for ComparedTail {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            percentile,
            seconds,
            active_seconds,
            allowed_ratio,
            exceeds,
        } = self;
        let (ours, theirs) = (milliseconds(*seconds), milliseconds(*active_seconds));
        write!(
            formatter,
            "p{percentile} {ours}, the active release's {theirs}"
        )?;
        if *exceeds {
            let most = milliseconds(active_seconds * allowed_ratio);
            write!(formatter, " (at most {most} allowed)")?;
        }
        Ok(())
    }
}

/// Seconds as milliseconds with three digits.
#[must_use]
pub fn milliseconds(seconds: f64) -> String {
    let milliseconds = seconds * 1e3;
    let digits = if milliseconds < 10.0 {
        2
    } else {
        usize::from(milliseconds < 100.0)
    };
    format!("{milliseconds:.digits$} ms")
}

fn nanoseconds(duration: Duration) -> u64 {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    nanoseconds.min(LONGEST_NANOSECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::statistics::Z_99;

    /// 1 ms, 2 ms, and so on to 100 ms.
    fn one_hundred_latencies() -> Latencies {
        (1..=100).map(Duration::from_millis).collect()
    }

    #[test]
    fn quantiles_have_three_digits() {
        let latencies = one_hundred_latencies();
        for (quantile, milliseconds) in [(0.5, 50.0), (0.9, 90.0), (0.99, 99.0), (1.0, 100.0)] {
            let measured = latencies.quantile(quantile).as_secs_f64() * 1000.0;
            assert!(
                (measured / milliseconds - 1.0).abs() < 0.001,
                "{quantile}: {measured}"
            );
        }
        assert_eq!(latencies.count(), 100);
        let mean = latencies.mean().as_secs_f64() * 1000.0;
        assert!((mean / 50.5 - 1.0).abs() < 0.001, "{mean}");
    }

    #[test]
    fn stuck_request_is_corrected_for_coordinated_omission() {
        let mut latencies: Latencies = (0..99).map(|_| Duration::from_millis(1)).collect();
        latencies.record(Duration::from_secs(1));
        let p90 = |latencies: &Latencies| latencies.quantile(0.9);
        assert!(p90(&latencies) < Duration::from_millis(2));
        // The stuck request hides 999 requests, which would have waited 1 ms, 2 ms, and so on to 999 ms.
        let corrected = latencies.corrected(Duration::from_millis(1));
        assert!(corrected.count() > 1000);
        assert!(p90(&corrected) > Duration::from_millis(800));
    }

    #[test]
    fn bins_contain_every_latency_in_order() {
        let bins = one_hundred_latencies().bins();
        assert_eq!(bins.iter().map(|bin| bin.count).sum::<u64>(), 100);
        assert!(
            bins.windows(2)
                .all(|pair| pair[0].to <= pair[1].from * 1.000_001)
        );
    }

    fn limit() -> LatencyLimit {
        LatencyLimit {
            max_ratio: 2.0,
            negligible: Duration::from_millis(5),
        }
    }

    /// `count` latencies within 10 % of `milliseconds`.
    fn around(milliseconds: u64, count: u64) -> Latencies {
        (0..count)
            .map(|number| {
                Duration::from_micros(milliseconds * 900 + milliseconds * 200 * number / count)
            })
            .collect()
    }

    #[test]
    fn ratio_above_limit_exceeds_and_below_does_not() {
        let active = around(20, 2_000);
        let compared = |milliseconds| {
            limit()
                .compare_tails(&around(milliseconds, 2_000), &active, Z_99)
                .unwrap()
        };
        assert!(!compared(30).exceeds);
        assert!(compared(60).exceeds);
        let text = compared(60).to_string();
        assert_eq!(
            text,
            "p99 65.9 ms, the active release's 22.0 ms (at most 43.9 ms allowed)"
        );
    }

    #[test]
    fn negligible_difference_is_allowed() {
        let active = around(1, 2_000);
        assert!(
            !limit()
                .compare_tails(&around(5, 2_000), &active, Z_99)
                .unwrap()
                .exceeds
        );
    }

    #[test]
    fn few_requests_are_compared_at_p90_or_not_at_all() {
        let active = around(1, 2_000);
        let compared = |count| limit().compare_tails(&around(50, count), &active, Z_99);
        let percentile = |count| compared(count).map(|compared| compared.percentile);
        assert_eq!(
            [99, 100, 499, 500].map(percentile),
            [None, Some(90), Some(90), Some(99)]
        );
        assert!(compared(100).unwrap().exceeds);
    }

    #[test]
    fn quantiles_of_empty_histogram_are_zero() {
        assert_eq!(Latencies::default().quantile(0.99), Duration::ZERO);
        assert_eq!(Latencies::default().mean(), Duration::ZERO);
        assert!(Latencies::default().bins().is_empty());
    }

    #[test]
    fn latency_above_one_hour_counts_as_one_hour() {
        let latencies: Latencies = [Duration::from_hours(30)].into_iter().collect();
        assert!(latencies.worst() >= Duration::from_mins(59));
    }
}
