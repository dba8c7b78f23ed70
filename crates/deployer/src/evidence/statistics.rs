//! The statistics of verdicts. Pure functions; random draws have a fixed seed, so that the same measurements
//! always give the same verdict.

use std::collections::BTreeMap;

use statrs::distribution::{Binomial, ChiSquared, ContinuousCDF as _, DiscreteCDF as _, Normal};

use crate::evidence::tally::Tally;

/// A confidence interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Standard normal quantile for 99 % two-sided confidence.
pub const Z_99: f64 = 2.576;

/// The Wilson score interval of an error rate, within 0–1; all of it without requests. `z` is the standard
/// normal quantile of the confidence.
///
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
#[must_use]
pub fn wilson(tally: Tally, z: f64) -> Interval {
    wilson_of_rate(tally.error_rate(), tally.requests as f64, z)
}

/// The same of a rate (0–1) that was measured in `n` independent requests, not necessarily a whole number.
#[must_use]
pub fn wilson_of_rate(rate: f64, n: f64, z: f64) -> Interval {
    if n <= 0.0 {
        return Interval {
            low: 0.0,
            high: 1.0,
        };
    }
    let scale = 1.0 + z * z / n;
    let center = (rate + z * z / (2.0 * n)) / scale;
    let half = z / scale * (rate * (1.0 - rate) / n + z * z / (4.0 * n * n)).sqrt();
    Interval {
        low: (center - half).max(0.0),
        high: (center + half).min(1.0),
    }
}

/// The standard normal quantile for each of `tests` one-sided tests, of which all together are wrong with a probability
/// of at most `budget` (0–1).
///
/// C. E. Bonferroni, "Teoria statistica delle classi e calcolo delle probabilità", 1936: the budget is divided by the
/// number of tests. That holds however the tests depend on each other.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "the parameters are constants")]
pub fn z_of_budget(budget: f64, tests: u64) -> f64 {
    let normal = Normal::new(0.0, 1.0).expect("a standard normal distribution");
    normal.inverse_cdf(1.0 - budget / tests.max(1) as f64)
}

/// Standard normal quantile for 99 % one-sided confidence.
const Z_99_ONE_SIDED: f64 = 2.326;

/// The interval of the difference of two shares of the same `inputs`, from the inputs that only one of the two
/// got right. Each end has 99 % one-sided confidence.
///
/// R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions based on
/// paired data", 1998 (square-and-add with Wilson's intervals).
#[must_use]
pub fn paired_difference(lost: u64, won: u64, inputs: u64) -> Interval {
    let share = |failed| {
        let tally = Tally {
            requests: inputs,
            failed,
        };
        (tally.error_rate(), wilson(tally, Z_99_ONE_SIDED))
    };
    let ((lost, of_lost), (won, of_won)) = (share(lost), share(won));
    Interval {
        low: lost - won - (lost - of_lost.low).hypot(of_won.high - won),
        high: lost - won + (of_lost.high - lost).hypot(won - of_won.low),
    }
}

/// The p-value (0–1) of losing this many or more of the inputs on which two equally good models disagree: the
/// one-sided exact form of McNemar's test.
///
/// Q. McNemar, "Note on the sampling error of the difference between correlated proportions", 1947.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "a half is a probability")]
pub fn mcnemar(lost: u64, won: u64) -> f64 {
    if lost == 0 {
        return 1.0;
    }
    let fair = Binomial::new(0.5, lost + won).expect("a half is a probability");
    fair.sf(lost - 1)
}

/// The fewest requests, at least `least`, of which a release with this error rate (0–1) passes in 99 % of the
/// cases. `pass` decides about a tally.
#[must_use]
pub fn requests_to_pass(least: u64, rate: f64, pass: impl Fn(Tally) -> bool) -> u64 {
    const CONFIDENCE: f64 = 0.99;
    /// A bound for rates that never pass.
    const MAX_REQUESTS: u64 = 1_000_000;

    let mut requests = least;
    while requests < MAX_REQUESTS {
        let passes = |failed: &u64| {
            pass(Tally {
                requests,
                failed: *failed,
            })
        };
        let most = (0..=requests).take_while(passes).last();
        let chance = most.map_or(0.0, |failed| {
            Binomial::new(rate, requests).map_or(1.0, |failures| failures.cdf(failed))
        });
        if chance >= CONFIDENCE {
            break;
        }
        requests += requests / 16 + 1;
    }
    requests
}

/// The population stability index of two distributions over the same classes, from their counts. 0 means equal;
/// below 0.1 is commonly ignored, above 0.25 is a shift.
///
/// N. Siddiqi, "Credit Risk Scorecards", 2006. Half a count is added to each class, because an empty class
/// would make the index infinite.
#[must_use]
pub fn stability_index(expected: &[u64], actual: &[u64]) -> f64 {
    const EXTRA: f64 = 0.5;

    let classes = expected.len().max(actual.len());
    let share = |counts: &[u64], class: usize| {
        let all: u64 = counts.iter().sum();
        let count = counts.get(class).copied().unwrap_or_default();
        (count as f64 + EXTRA) / (all as f64 + EXTRA * classes as f64)
    };
    (0..classes)
        .map(|class| {
            let (before, after) = (share(expected, class), share(actual, class));
            (after - before) * (after / before).ln()
        })
        .sum()
}

/// The drift between two distributions of labels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Drift {
    /// The population stability index.
    pub index: f64,
    /// The value that the index of two samples of one distribution rarely exceeds. It grows with the number of labels
    /// and shrinks with the number of answers.
    pub by_chance: f64,
}

impl Drift {
    /// Whether the drift exceeds `limit`, beyond chance.
    #[must_use]
    pub fn exceeds(self, limit: f64) -> bool {
        self.index > limit + self.by_chance
    }
}

/// The [`stability_index`] of counts by label, and the part that chance explains: two samples of one distribution exceed
/// it with the probability `error` (0–1).
///
/// Divided by the sum of the inverse sample sizes, the index follows a chi-squared distribution with one degree
/// of freedom less than labels: B. Yurdakul, "Statistical Properties of Population Stability Index", 2018.
#[must_use]
pub fn drift_of_labels(
    expected: &BTreeMap<String, u64>,
    actual: &BTreeMap<String, u64>,
    error: f64,
) -> Drift {
    let mut both: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
    for (side, counts) in [expected, actual].into_iter().enumerate() {
        for (label, count) in counts {
            both.entry(label).or_default()[side] += count;
        }
    }
    let [expected, actual]: [Vec<u64>; 2] =
        [0, 1].map(|side| both.values().map(|counts| counts[side]).collect());
    let inverse = |counts: &[u64]| 1.0 / counts.iter().sum::<u64>().max(1) as f64;
    let chance = ChiSquared::new(both.len().saturating_sub(1) as f64)
        .map_or(0.0, |chance| chance.inverse_cdf(1.0 - error));
    Drift {
        index: stability_index(&expected, &actual),
        by_chance: chance * (inverse(&expected) + inverse(&actual)),
    }
}

/// The value that a share of `quantile` (0–1) of the sorted values does not exceed; 0 if empty.
#[must_use]
pub fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    sorted[place(sorted.len(), quantile).min(last)]
}

/// The [`quantile`] of unsorted values.
#[must_use]
pub fn quantile_of_unsorted(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, at)
}

/// The ratio of a quantile of `ours` to that of `theirs`, with its 99 % confidence interval from a bootstrap.
///
/// B. Efron, "Bootstrap methods: another look at the jackknife", 1979 (percentile method).
#[must_use]
pub fn ratio_of_quantiles(ours: &[f64], theirs: &[f64], at: f64) -> (f64, Interval) {
    const DRAWS: usize = 1_000;
    const CONFIDENCE: f64 = 0.99;

    let mut random = fastrand::Rng::with_seed(1979);
    let mut buffer = Vec::new();
    let mut drawn = |values: &[f64]| {
        buffer.clear();
        buffer.extend((0..values.len()).map(|_| values[random.usize(..values.len())]));
        let place = place(buffer.len(), at);
        *buffer.select_nth_unstable_by(place, f64::total_cmp).1
    };
    if ours.is_empty() || theirs.is_empty() {
        let unknown = Interval {
            low: 0.0,
            high: f64::INFINITY,
        };
        return (f64::NAN, unknown);
    }
    let mut ratios: Vec<f64> = (0..DRAWS).map(|_| drawn(ours) / drawn(theirs)).collect();
    ratios.sort_by(f64::total_cmp);
    let tail = (1.0 - CONFIDENCE) / 2.0;
    let interval = Interval {
        low: quantile(&ratios, tail),
        high: quantile(&ratios, 1.0 - tail),
    };
    let ratio = quantile_of_unsorted(ours, at) / quantile_of_unsorted(theirs, at);
    (ratio, interval)
}

/// The quantiles between which the true `at`-quantile of `count` values lies, for any distribution. `z` is the standard
/// normal quantile of the confidence.
#[must_use]
pub fn bounds_of_quantile(count: u64, at: f64, z: f64) -> Interval {
    let half = z * (at * (1.0 - at) / count.max(1) as f64).sqrt();
    Interval {
        low: (at - half).max(0.0),
        high: (at + half).min(1.0),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a length is one"
)]
fn place(count: usize, at: f64) -> usize {
    ((at * count as f64).ceil() as usize)
        .saturating_sub(1)
        .min(count.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Returns whether both values are equal when rounded to this many digits.
    #[expect(clippy::float_cmp, reason = "rounded values are compared")]
    fn equal_rounded(value: f64, expected: f64, digits: i32) -> bool {
        let scale = 10_f64.powi(digits);
        (value * scale).round() == (expected * scale).round()
    }

    #[test]
    fn wilson_interval_matches_published_values() {
        // 5 of 100 at 95 %: 0.0215 to 0.1118.
        let tally = Tally {
            requests: 100,
            failed: 5,
        };
        let Interval { low, high } = wilson(tally, 1.96);
        assert!(
            equal_rounded(low, 0.0215, 4) && equal_rounded(high, 0.1118, 4),
            "{low} {high}"
        );
    }

    #[test]
    fn wilson_interval_without_requests_is_zero_to_one() {
        let all = Interval {
            low: 0.0,
            high: 1.0,
        };
        assert_eq!(wilson(Tally::default(), Z_99), all);
    }

    #[test]
    fn z_of_budget_matches_published_quantiles() {
        assert!(equal_rounded(z_of_budget(0.01, 1), 2.326, 3));
        assert!(equal_rounded(z_of_budget(0.01, 10), 3.090, 3));
        assert!(equal_rounded(z_of_budget(0.01, 10_000), 4.753, 3));
    }

    #[test]
    fn mcnemar_p_value_matches_binomial_tail() {
        assert!(equal_rounded(mcnemar(5, 0), 1.0 / 32.0, 6));
        assert!(equal_rounded(mcnemar(9, 1), 11.0 / 1024.0, 6));
        assert!(equal_rounded(mcnemar(0, 7), 1.0, 6));
        assert!(mcnemar(3, 3) > 0.5);
    }

    #[test]
    fn newcombe_interval_contains_measured_difference() {
        let Interval { low, high } = paired_difference(30, 10, 480);
        assert!(
            low > 0.0 && low < 20.0 / 480.0 && high > 20.0 / 480.0,
            "{low} {high}"
        );
        let Interval { low, high } = paired_difference(0, 0, 50);
        assert!(low < -0.08 && high > 0.08, "{low} {high}");
    }

    #[test]
    fn stability_index_matches_formula() {
        // 50/50 against 60/40. With counts this large, the added 0.5 is negligible.
        let index = stability_index(&[500_000, 500_000], &[600_000, 400_000]);
        assert!(
            equal_rounded(index, 0.1 * (0.6_f64 / 0.4).ln(), 4),
            "{index}"
        );
    }

    #[test]
    fn label_of_one_release_only_is_drift() {
        let before = BTreeMap::from([("good".to_owned(), 500), ("bad".to_owned(), 500)]);
        let after = BTreeMap::from([("good".to_owned(), 500), ("awful".to_owned(), 500)]);
        assert!(drift_of_labels(&before, &after, 0.01).exceeds(0.25));
        assert!(drift_of_labels(&before, &before, 0.01).index.abs() < 1e-12);
    }

    /// The counts of `labels` labels among `answers` answers; some labels are far rarer than others.
    fn labeled(random: &mut fastrand::Rng, labels: u64, answers: u64) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for _ in 0..answers {
            let label = random.u64(..labels).min(random.u64(..labels));
            *counts.entry(label.to_string()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn equal_distributions_rarely_exceed_drift_by_chance() {
        let mut random = fastrand::Rng::with_seed(8);
        for (labels, answers) in [(2, 200), (10, 200), (50, 200), (50, 2_000), (300, 1_000)] {
            let drifted = (0..300).filter(|_| {
                let [before, after] = [(); 2].map(|()| labeled(&mut random, labels, answers));
                drift_of_labels(&before, &after, 0.01).exceeds(0.25)
            });
            let drifted = drifted.count();
            assert!(
                drifted <= 1,
                "{drifted} of 300 at {labels} labels, {answers} answers"
            );
        }
    }

    #[test]
    fn drift_is_found_among_many_labels() {
        let mut random = fastrand::Rng::with_seed(9);
        let before = labeled(&mut random, 50, 2_000);
        let mut after = labeled(&mut random, 50, 1_000);
        *after.entry("7".to_owned()).or_default() += 1_000;
        assert!(drift_of_labels(&before, &after, 0.01).exceeds(0.25));
    }

    #[test]
    fn bootstrap_separates_slower_from_equal_release() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut latencies =
            |factor: f64| -> Vec<f64> { (0..1000).map(|_| factor * -random.f64().ln()).collect() };
        let (active, equal, slow) = (latencies(1.0), latencies(1.0), latencies(3.0));
        for at in [0.5, 0.99] {
            let (_, same) = ratio_of_quantiles(&equal, &active, at);
            assert!(same.low < 1.0 && same.high > 1.0, "{at}: {same:?}");
            let (ratio, worse) = ratio_of_quantiles(&slow, &active, at);
            assert!(worse.low > 1.5 && worse.high < 6.0, "{at}: {worse:?}");
            assert!(worse.low <= ratio && ratio <= worse.high);
        }
    }

    proptest! {
        #[test]
        fn wilson_interval_contains_measured_rate(requests in 1_u64..5000, share in 0.0..1.0_f64) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share")]
            let failed = (requests as f64 * share) as u64;
            let tally = Tally { requests, failed };
            let Interval { low, high } = wilson(tally, Z_99);
            let rate = tally.error_rate();
            prop_assert!(low <= rate + 1e-12 && rate <= high + 1e-12);
            prop_assert!((0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high));
        }

        #[test]
        fn stability_index_is_never_negative(
            counts in prop::collection::vec((0_u64..1000, 0_u64..1000), 1..10),
        ) {
            let (before, after): (Vec<u64>, Vec<u64>) = counts.into_iter().unzip();
            prop_assert!(stability_index(&before, &after) >= 0.0);
        }

        #[test]
        fn quantile_is_one_of_the_values(mut values in prop::collection::vec(0.0..9.0_f64, 1..50), at in 0.0..1.0_f64) {
            values.sort_by(f64::total_cmp);
            prop_assert!(values.contains(&quantile(&values, at)));
        }
    }
}
