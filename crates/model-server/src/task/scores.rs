use serde::Deserialize;
use thiserror::Error;

/// What the logits of a model mean: `problem_type` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemType {
    /// Exactly one label applies: the probabilities add up to 1 (softmax).
    SingleLabelClassification,
    /// Each label applies or not, with its own probability (logistic function).
    MultiLabelClassification,
}

/// The logits are not finite numbers.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("the model returned {logits:?}; expected one finite number for each label")]
pub(crate) struct NonFinite {
    logits: Vec<f32>,
}

impl ProblemType {
    /// Whether several labels may apply at once.
    pub(crate) fn is_multi_label(self) -> bool {
        self == Self::MultiLabelClassification
    }

    /// Returns the probability of each label, from 0 to 1, in the order of `logits`.
    ///
    /// Softmax is `exp(x_i - max) / Σ exp(x_j - max)`; subtracting the largest logit prevents overflow. The
    /// logistic function is `1 / (1 + exp(-x))`; if its exponential overflows to infinity, the result is 0.
    pub(crate) fn probabilities(self, logits: &[f32]) -> Result<Vec<f32>, NonFinite> {
        if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
            return Err(NonFinite {
                logits: logits.to_vec(),
            });
        }
        match self {
            Self::SingleLabelClassification => {
                let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut powers: Vec<f32> =
                    logits.iter().map(|logit| (logit - largest).exp()).collect();
                let sum: f32 = powers.iter().sum();
                for power in &mut powers {
                    *power /= sum;
                }
                Ok(powers)
            }
            Self::MultiLabelClassification => Ok(logits
                .iter()
                .map(|logit| 1.0 / (1.0 + (-logit).exp()))
                .collect()),
        }
    }
}

/// Returns the index of the largest logit, the first one of equal ones. Probabilities are less exact: two of
/// them may round to 1.
pub(crate) fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (place, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = place;
        }
    }
    best
}

/// Returns the indices of all logits, largest first; equal ones keep their order.
pub(crate) fn descending(logits: &[f32]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..logits.len()).collect();
    places.sort_by(|one, other| {
        let order = logits[*other].partial_cmp(&logits[*one]);
        order.unwrap_or(std::cmp::Ordering::Equal)
    });
    places
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SINGLE: ProblemType = ProblemType::SingleLabelClassification;
    const MULTI: ProblemType = ProblemType::MultiLabelClassification;

    #[test]
    fn equal_logits_have_equal_probabilities_and_the_first_wins() {
        let logits = [0.5; 4];
        assert_eq!(largest(&logits), 0);
        assert_eq!(descending(&logits), [0, 1, 2, 3]);
        assert_eq!(SINGLE.probabilities(&logits).unwrap(), [0.25; 4]);
    }

    #[test]
    fn softmax_of_two_logits_equals_the_logistic_function() {
        let single = SINGLE.probabilities(&[-1.0, 1.0]).unwrap();
        let multi = MULTI.probabilities(&[2.0]).unwrap();
        assert!((single[1] - multi[0]).abs() < 1e-6);
    }

    #[test]
    fn multi_label_probabilities_are_independent() {
        let probabilities = MULTI.probabilities(&[0.0, 20.0, -20.0]).unwrap();
        assert!((probabilities[0] - 0.5).abs() < 1e-6);
        assert!(probabilities[1] > 0.999 && probabilities[2] < 0.001);
    }

    #[test]
    fn non_finite_logits_are_refused() {
        for logits in [
            &[][..],
            &[f32::NAN, 1.0],
            &[1.0, f32::INFINITY],
            &[f32::NEG_INFINITY, 0.0],
        ] {
            assert!(SINGLE.probabilities(logits).is_err(), "{logits:?}");
            assert!(MULTI.probabilities(logits).is_err(), "{logits:?}");
        }
    }

    /// Any finite number, including the largest and the smallest.
    fn finite() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<f32>().prop_filter("finite", |number| number.is_finite()),
            Just(f32::MAX),
            Just(f32::MIN),
            -20.0_f32..20.0,
        ]
    }

    proptest! {
        #[test]
        fn finite_logits_have_valid_probabilities(logits in prop::collection::vec(finite(), 1..20)) {
            for problem in [SINGLE, MULTI] {
                let probabilities = problem.probabilities(&logits).unwrap();
                prop_assert!(probabilities.iter().all(|it| (0.0..=1.0).contains(it)));
            }
            let sum: f32 = SINGLE.probabilities(&logits).unwrap().iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }

        #[test]
        fn descending_orders_by_logit_and_probability(
            logits in prop::collection::vec(finite(), 1..20),
        ) {
            let order = descending(&logits);
            prop_assert_eq!(order[0], largest(&logits));
            for problem in [SINGLE, MULTI] {
                let probabilities = problem.probabilities(&logits).unwrap();
                for pair in order.windows(2) {
                    prop_assert!(probabilities[pair[0]] >= probabilities[pair[1]]);
                }
            }
        }
    }
}
