use thiserror::Error;

/// The most likely class of one text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Choice {
    /// Index of the class, below the number of logits.
    pub(crate) class: usize,
    /// Its softmax probability, above 0 and at most 1.
    pub(crate) probability: f32,
}

/// The model's output holds no usable number: not a probability, whatever one does with it.
#[derive(Debug, Error, PartialEq)]
#[error("the model answered {logits:?}: expected one finite number per label")]
pub(crate) struct NonFinite {
    logits: Vec<f32>,
}

/// Picks the class with the largest logit and its softmax probability.
///
/// Of equal logits the first wins, so an answer never depends on chance.
pub(crate) fn most_likely(logits: &[f32]) -> Result<Choice, NonFinite> {
    let refuse = || NonFinite {
        logits: logits.to_vec(),
    };
    if logits.is_empty() || logits.iter().any(|logit| !logit.is_finite()) {
        return Err(refuse());
    }
    let mut class = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[class] {
            class = index;
        }
    }
    // Relative to the largest logit no exponential overflows, and the largest one's own is 1.
    let largest = logits[class];
    let sum: f32 = logits.iter().map(|logit| (logit - largest).exp()).sum();
    Ok(Choice {
        class,
        probability: sum.recip(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_share_the_probability_and_the_first_wins() {
        let choice = most_likely(&[0.5, 0.5, 0.5, 0.5]).unwrap();
        assert_eq!(choice.class, 0);
        assert!((choice.probability - 0.25).abs() < 1e-6);
    }

    #[test]
    fn probability_is_that_of_the_logistic_function_for_two_classes() {
        let choice = most_likely(&[-1.0, 1.0]).unwrap();
        assert_eq!(choice.class, 1);
        assert!((choice.probability - 1.0 / (1.0 + (-2.0_f32).exp())).abs() < 1e-6);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        for logits in [[f32::MAX, f32::MIN], [1e30, 1e30], [-1e30, -1e30]] {
            let choice = most_likely(&logits).unwrap();
            assert_eq!(choice.class, 0);
            assert!((0.5..=1.0).contains(&choice.probability), "{choice:?}");
        }
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for logits in [
            &[][..],
            &[f32::NAN, 1.0],
            &[1.0, f32::INFINITY],
            &[f32::NEG_INFINITY, 0.0],
        ] {
            assert!(most_likely(logits).is_err(), "{logits:?}");
        }
    }
}
