//! The rise of a share that was measured in different requests before and since.

use crate::evidence::{
    statistics::{Interval, wilson_of_rate},
    tally::Tally,
};

/// A share of failures among requests that may depend on each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share {
    /// The share, 0–1.
    pub rate: f64,
    /// As many independent requests would tell as much.
    pub independent: f64,
}

impl Share {
    /// The share in these blocks of requests, such as seconds. The more it varies from block to block, the fewer
    /// independent requests it counts for.
    ///
    /// The variance between the blocks is divided by that of independent requests: P. `McCullagh`, J. A. Nelder,
    /// "Generalized Linear Models", 1989 (dispersion by Pearson's statistic).
    #[must_use]
    pub fn of_blocks(blocks: &[Tally]) -> Self {
        let all: Tally = blocks.iter().copied().sum();
        let rate = all.error_rate();
        let filled = blocks.iter().filter(|block| block.requests > 0);
        let degrees = filled.clone().count().saturating_sub(1) as f64;
        let variance = rate * (1.0 - rate);
        let pearson: f64 = filled
            .map(|block| {
                let expected = rate * block.requests as f64;
                (block.failed as f64 - expected).powi(2) / (block.requests as f64 * variance)
            })
            .sum();
        let dispersion = if variance > 0.0 && degrees > 0.0 {
            (pearson / degrees).max(1.0)
        } else {
            1.0
        };
        Self {
            rate,
            independent: all.requests as f64 / dispersion,
        }
    }
}

/// The interval of the rise of a share of failures, from `before` to `since`, within -1–1. `z` is the standard normal
/// quantile of the confidence of each end.
///
/// R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven
/// methods", 1998 (method 10: square-and-add with Wilson's intervals).
#[must_use]
pub fn rise(before: Share, since: Share, z: f64) -> Interval {
    let [of_before, of_since] =
        [before, since].map(|share| wilson_of_rate(share.rate, share.independent, z));
    let rise = since.rate - before.rate;
    Interval {
        low: rise - (since.rate - of_since.low).hypot(of_before.high - before.rate),
        high: rise + (of_since.high - since.rate).hypot(before.rate - of_before.low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(failed: u64, requests: u64) -> Share {
        Share::of_blocks(&[Tally { requests, failed }])
    }

    #[test]
    fn interval_matches_the_published_example() {
        // Newcombe 1998, table II, line (a): 56/70 and 48/80 with 95 %, method 10: 0.0524 to 0.3339.
        let interval = rise(share(48, 80), share(56, 70), 1.959_964);
        assert!((interval.low - 0.0524).abs() < 1e-4, "{interval:?}");
        assert!((interval.high - 0.3339).abs() < 1e-4, "{interval:?}");
    }

    #[test]
    fn few_requests_prove_no_rise() {
        assert!(rise(share(0, 0), share(10, 10), 2.326).low < 0.0);
        assert!(rise(share(0, 1_000), share(1, 3), 2.326).low < 0.05);
        assert!(rise(share(0, 1_000), share(100, 300), 2.326).low > 0.2);
    }

    #[test]
    fn burst_counts_for_fewer_requests_than_an_even_share() {
        let tally = |failed| Tally {
            requests: 20,
            failed,
        };
        let even = Share::of_blocks(&[tally(2), tally(2), tally(2), tally(2)]);
        let burst = Share::of_blocks(&[tally(8), tally(0), tally(0), tally(0)]);
        assert_eq!((even.rate, burst.rate), (0.1, 0.1));
        assert!((even.independent - 80.0).abs() < 1e-9);
        // Pearson's statistic is (6² + 3 · 2²) / 1.8, with three degrees of freedom.
        assert!((burst.independent - 80.0 * 3.0 * 1.8 / 48.0).abs() < 1e-9);
    }
}
