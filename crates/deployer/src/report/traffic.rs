//! What clients received, aggregated over time.

use std::collections::BTreeMap;

use crate::{
    color::Color,
    evidence::{ending_counts::EndingCounts, request::Request, statistics::quantile},
    report::record::TrafficSecond,
};

/// Counts the requests of the router's log by time and color.
#[derive(Debug, Clone)]
pub(crate) struct TrafficCounts {
    /// The length of a bucket in seconds, at least 1.
    step: i64,
    buckets: BTreeMap<(i64, Color), Bucket>,
}

/// What was logged for a color within a bucket's time.
#[derive(Debug, Clone, Default)]
struct Bucket {
    failed: u64,
    waits: Waits,
    endings: EndingCounts,
    own_endings: EndingCounts,
}

/// How long clients waited, in seconds.
#[derive(Debug, Clone)]
enum Waits {
    /// All of them.
    Each(Vec<f64>),
    /// p50 and p99 of a bucket that is complete.
    Quantiles([f64; 2]),
}

impl Default for Waits {
    fn default() -> Self {
        Self::Each(Vec::new())
    }
}

impl Waits {
    fn quantiles(&self) -> [f64; 2] {
        match self {
            Self::Each(waits) => {
                let mut sorted = waits.clone();
                sorted.sort_by(f64::total_cmp);
                [quantile(&sorted, 0.5), quantile(&sorted, 0.99)]
            }
            Self::Quantiles(quantiles) => *quantiles,
        }
    }
}

impl TrafficCounts {
    /// Counts in buckets of so many seconds.
    pub(crate) fn every(step: i64) -> Self {
        Self {
            step: step.max(1),
            buckets: BTreeMap::new(),
        }
    }

    /// Counts the requests that ended at `from`, in seconds since 1970, or later.
    pub(crate) fn count(&mut self, requests: &[Request], from: f64) {
        for request in requests.iter().filter(|request| request.at >= from) {
            let Some((wanted, ending)) = request.ending() else {
                continue;
            };
            #[expect(clippy::cast_possible_truncation, reason = "a second of our time fits")]
            let second = request.at.floor() as i64;
            let begin = second - second.rem_euclid(self.step);
            let bucket = self.buckets.entry((begin, wanted)).or_default();
            if request.by_deployer {
                bucket.own_endings.count(ending);
                continue;
            }
            bucket.endings.count(ending);
            bucket.failed += u64::from(ending.is_good(false) == Some(false));
            if let Waits::Each(waits) = &mut bucket.waits {
                waits.push(request.waited.as_secs_f64());
            }
        }
    }

    /// Forgets buckets that begin before `from`, and keeps only the quantiles of those that begin before `complete`. Both
    /// are seconds since 1970.
    pub(crate) fn compact(&mut self, from: i64, complete: i64) {
        self.buckets.retain(|(begin, _), _| *begin >= from);
        for ((begin, _), bucket) in &mut self.buckets {
            if *begin < complete && matches!(bucket.waits, Waits::Each(_)) {
                bucket.waits = Waits::Quantiles(bucket.waits.quantiles());
            }
        }
    }

    /// The buckets in order. Each is named by its first second.
    pub(crate) fn seconds(&self) -> Vec<TrafficSecond> {
        let buckets = self.buckets.iter();
        let seconds = buckets.map(|((second, color), bucket)| {
            let [p50, p99] = bucket.waits.quantiles();
            TrafficSecond {
                second: *second,
                color: *color,
                requests: bucket.endings.total(),
                failed: bucket.failed,
                p50,
                p99,
                endings: bucket.endings.clone(),
                own_endings: bucket.own_endings.clone(),
            }
        });
        seconds.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::request::answered_by;

    fn request(at: f64, waited: u64) -> Request {
        Request {
            at,
            waited: Duration::from_millis(waited),
            ..answered_by(Color::Blue, 200)
        }
    }

    #[test]
    fn traffic_is_counted_in_buckets_of_the_step() {
        let mut counts = TrafficCounts::every(5);
        counts.count(
            &[request(99.0, 1), request(100.0, 1), request(104.9, 3)],
            100.0,
        );
        counts.count(&[request(105.0, 2)], 100.0);
        let seconds = counts.seconds();
        let counted: Vec<_> = seconds.iter().map(|it| (it.second, it.requests)).collect();
        assert_eq!(counted, [(100, 2), (105, 1)]);
        assert!((seconds[0].p99 - 0.003).abs() < 1e-9, "{seconds:?}");
    }

    #[test]
    fn compact_traffic_keeps_figures_and_forgets_old_buckets() {
        let mut counts = TrafficCounts::every(1);
        counts.count(&[request(1.0, 1), request(2.0, 2), request(3.0, 3)], 0.0);
        let before = counts.seconds();
        counts.compact(2, 3);
        assert_eq!(counts.seconds(), before[1..]);
        // A late line is counted, but no longer moves the quantiles.
        counts.count(&[request(2.5, 900)], 0.0);
        let late = &counts.seconds()[0];
        assert_eq!(late.requests, 2);
        assert!((late.p99 - 0.002).abs() < 1e-9, "{late:?}");
    }
}
