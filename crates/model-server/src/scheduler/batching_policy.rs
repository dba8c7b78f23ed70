/// What may go through the model together.
///
/// On a CPU, padding is the main price of a batch: every text is filled up to the longest one,
/// and the filling costs as much as words do. What a batch saves is the fixed price of a pass, which
/// is worth a few tokens of a large model and many of a small one. So only texts of nearly the same
/// length share a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchingPolicy {
    /// The most texts; 1 means no batches.
    pub(crate) max_texts: usize,
    /// The most tokens, padding included. One text alone may have more.
    pub(crate) max_tokens: usize,
    /// The most tokens of padding that one more text may add: its own, and that of the others where
    /// it is the longest.
    pub(crate) max_padding: usize,
}

impl BatchingPolicy {
    /// Chooses what goes along with the oldest text: of the others, the oldest that fit. `lengths`
    /// are the tokens of all waiting texts, the oldest first; the answer are places among them, in
    /// ascending order, and always holds 0: the oldest is never passed over.
    ///
    /// Those of the nearest length would be padded less still, but whoever has a length of its own
    /// would be overtaken again and again.
    pub(crate) fn choose(&self, lengths: &[usize]) -> Vec<usize> {
        let Some(first) = lengths.first() else {
            return Vec::new();
        };
        let mut chosen = vec![0];
        let mut longest = *first;
        for (place, length) in lengths.iter().enumerate().skip(1) {
            if chosen.len() >= self.max_texts {
                break;
            }
            let padded = longest.max(*length) * (chosen.len() + 1);
            let added = padded - longest * chosen.len() - length;
            if padded <= self.max_tokens && added <= self.max_padding {
                chosen.push(place);
                longest = longest.max(*length);
            }
        }
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BatchingPolicy = BatchingPolicy {
        max_texts: 4,
        max_tokens: 100,
        max_padding: 4,
    };

    #[test]
    fn texts_of_one_length_go_together_the_oldest_first() {
        assert_eq!(POLICY.choose(&[20, 20, 20, 20, 20]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_short_text_does_not_pay_for_a_long_one() {
        assert_eq!(POLICY.choose(&[10, 80, 11, 80, 10]), [0, 2, 4]);
    }

    #[test]
    fn the_older_of_those_that_fit_goes_first_though_another_fits_better() {
        assert_eq!(POLICY.choose(&[20, 22, 22, 22, 20, 20, 20]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_batch_stays_within_its_tokens() {
        assert_eq!(POLICY.choose(&[40, 40, 40]), [0, 1]);
    }

    #[test]
    fn a_text_that_is_longer_than_a_batch_goes_alone() {
        assert_eq!(POLICY.choose(&[500, 500]), [0]);
    }

    #[test]
    fn without_batches_each_text_goes_alone() {
        let policy = BatchingPolicy {
            max_texts: 1,
            ..POLICY
        };
        assert_eq!(policy.choose(&[5, 5, 5]), [0]);
    }

    #[test]
    fn of_nothing_nothing_is_chosen() {
        assert!(POLICY.choose(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn every_choice_holds_the_oldest_and_keeps_the_limits(
            lengths in prop::collection::vec(1_usize..200, 1..100),
            max_texts in 1_usize..40,
            max_tokens in 1_usize..2000,
        ) {
            let policy = BatchingPolicy { max_texts, max_tokens, max_padding: 3 };
            let chosen = policy.choose(&lengths);
            prop_assert_eq!(chosen[0], 0);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.len() <= max_texts);
            let taken: Vec<usize> = chosen.iter().map(|place| lengths[*place]).collect();
            let padded = taken.iter().max().unwrap() * taken.len();
            let real: usize = taken.iter().sum();
            prop_assert!(chosen.len() == 1 || padded <= max_tokens);
            prop_assert!(padded - real <= 3 * (chosen.len() - 1));
        }

        #[test]
        fn one_after_the_other_all_are_served(
            lengths in prop::collection::vec(1_usize..200, 1..60),
        ) {
            let mut waiting = lengths.clone();
            while !waiting.is_empty() {
                let chosen = POLICY.choose(&waiting);
                prop_assert!(!chosen.is_empty());
                for place in chosen.into_iter().rev() {
                    waiting.remove(place);
                }
            }
        }
    }
}
