//! The difference of two shares that were measured in different requests.

use crate::evidence::{
    statistics::{Interval, wilson},
    tally::Tally,
};

/// The interval of the rise of a share of failures, from `before` to `since`, within -1–1. `z` is the standard normal
/// quantile of the confidence of each end.
///
/// R. G. Newcombe, "Interval estimation for the difference between independent proportions: comparison of eleven
/// methods", 1998 (method 10: square-and-add with Wilson's intervals).
#[must_use]
pub fn rise(before: Tally, since: Tally, z: f64) -> Interval {
    let (rate_before, rate_since) = (before.error_rate(), since.error_rate());
    let (of_before, of_since) = (wilson(before, z), wilson(since, z));
    let rise = rate_since - rate_before;
    Interval {
        low: rise - (rate_since - of_since.low).hypot(of_before.high - rate_before),
        high: rise + (of_since.high - rate_since).hypot(rate_before - of_before.low),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(failed: u64, requests: u64) -> Tally {
        Tally { requests, failed }
    }

    #[test]
    fn interval_matches_the_published_example() {
        // Newcombe 1998, table II, line (a): 56/70 and 48/80 with 95 %, method 10: 0.0524 to 0.3339.
        let interval = rise(tally(48, 80), tally(56, 70), 1.959_964);
        assert!((interval.low - 0.0524).abs() < 1e-4, "{interval:?}");
        assert!((interval.high - 0.3339).abs() < 1e-4, "{interval:?}");
    }

    #[test]
    fn few_requests_prove_no_rise() {
        assert!(rise(tally(0, 0), tally(10, 10), 2.326).low < 0.0);
        assert!(rise(tally(0, 1_000), tally(1, 3), 2.326).low < 0.05);
        assert!(rise(tally(0, 1_000), tally(100, 300), 2.326).low > 0.2);
    }
}
