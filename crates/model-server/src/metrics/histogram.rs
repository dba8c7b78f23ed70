use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prometheus_client::encoding::{MetricEncoder, NoLabelSet};

/// The unit and the buckets of a histogram.
#[derive(Debug)]
pub(crate) struct Scale {
    /// The upper bound of each bucket; one more bucket takes larger values.
    bounds: &'static [u64],
    /// How many counted units equal one exposed unit.
    per_unit: f64,
}

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Durations, from 50 µs to 100 s.
pub(crate) static TIMES: Scale = Scale {
    bounds: &[
        50 * MICROSECOND,
        100 * MICROSECOND,
        250 * MICROSECOND,
        500 * MICROSECOND,
        MILLISECOND,
        2_500 * MICROSECOND,
        5 * MILLISECOND,
        10 * MILLISECOND,
        25 * MILLISECOND,
        50 * MILLISECOND,
        100 * MILLISECOND,
        250 * MILLISECOND,
        500 * MILLISECOND,
        SECOND,
        2_500 * MILLISECOND,
        5 * SECOND,
        10 * SECOND,
        30 * SECOND,
        100 * SECOND,
    ],
    per_unit: 1e9,
};

/// Texts in a batch.
pub(crate) static TEXTS: Scale = Scale {
    bounds: &[1, 2, 4, 8, 16, 32, 64, 128],
    per_unit: 1.0,
};

/// Tokens in a batch.
pub(crate) static TOKENS: Scale = Scale {
    bounds: &[
        16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768,
    ],
    per_unit: 1.0,
};

/// A lock-free histogram of integers. The one of `prometheus-client` locks a mutex for each value, which all
/// requests would share.
///
/// A scrape may see a value in its bucket before it is in the sum. The count is the sum of the buckets.
#[derive(Debug)]
pub(crate) struct Histogram {
    scale: &'static Scale,
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn new(scale: &'static Scale) -> Self {
        Self {
            scale,
            buckets: (0..=scale.bounds.len())
                .map(|_| AtomicU64::new(0))
                .collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Records a value.
    pub(crate) fn observe(&self, value: u64) {
        let place = self.scale.bounds.partition_point(|bound| *bound < value);
        self.buckets[place].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Records a number of items.
    pub(crate) fn observe_count(&self, count: usize) {
        self.observe(u64::try_from(count).unwrap_or(u64::MAX));
    }

    /// Records a duration in nanoseconds.
    pub(crate) fn observe_time(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Writes the histogram for a scrape.
    pub(crate) fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let bounds = self.scale.bounds.iter().map(|bound| self.expose(*bound));
        let counts = self.buckets.iter().map(|it| it.load(Ordering::Relaxed));
        let buckets: Vec<(f64, u64)> = bounds.chain([f64::INFINITY]).zip(counts).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = self.expose(self.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn expose(&self, value: u64) -> f64 {
        value as f64 / self.scale.per_unit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(histogram: &Histogram) -> Vec<u64> {
        let counts = histogram.buckets.iter();
        counts.map(|it| it.load(Ordering::Relaxed)).collect()
    }

    #[test]
    fn bucket_includes_its_upper_bound() {
        let histogram = Histogram::new(&TEXTS);
        for value in [0, 1, 2, 3, 128, 129, u64::MAX / 2] {
            histogram.observe(value);
        }
        assert_eq!(counts(&histogram), [2, 1, 1, 0, 0, 0, 0, 1, 2]);
    }

    #[test]
    fn durations_are_exposed_in_seconds() {
        let histogram = Histogram::new(&TIMES);
        for (nanoseconds, seconds) in [(100_000_000, 0.1), (50_000, 5e-5), (2_500_000_000, 2.5)] {
            let exposed = histogram.expose(nanoseconds);
            assert_eq!(exposed.to_bits(), f64::to_bits(seconds), "{exposed}");
        }
    }

    #[test]
    fn bucket_bounds_ascend() {
        for scale in [&TIMES, &TEXTS, &TOKENS] {
            assert!(scale.bounds.is_sorted_by(|left, right| left < right));
        }
    }
}
