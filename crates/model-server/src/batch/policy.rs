/// What may go through the model together.
///
/// On a CPU, padding is the main price of a batch: every text is filled up to the longest one,
/// and the filling costs as much as words do. So only texts of nearly the same length share a
/// forward pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Policy {
    /// The most texts; 1 means no batches.
    pub(crate) texts: usize,
    /// The most tokens, padding included. One text alone may have more.
    pub(crate) tokens: usize,
    /// The most tokens with padding, in relation to those without.
    pub(crate) padding: f64,
}

impl Policy {
    /// Chooses what goes along with the oldest text. `lengths` are the tokens of all waiting
    /// texts, the oldest first; the answer are places among them, in ascending order, and always
    /// holds 0: the oldest is never passed over.
    pub(crate) fn choose(&self, lengths: &[usize]) -> Vec<usize> {
        let Some(first) = lengths.first() else {
            return Vec::new();
        };
        let mut by_length: Vec<usize> = (0..lengths.len()).collect();
        by_length.sort_by_key(|place| (lengths[*place], *place));
        let start = by_length.iter().position(|place| *place == 0).unwrap_or(0);
        // Equal lengths are taken from the oldest on, which stands first among its equals.
        let (mut low, mut high) = (start, start + 1);
        let mut sum = *first;
        while high - low < self.texts {
            let shorter = low.checked_sub(1).map(|at| lengths[by_length[at]]);
            let longer = by_length.get(high).map(|place| lengths[*place]);
            let fits = |added: usize| {
                let longest = added.max(lengths[by_length[high - 1]]);
                let padded = longest * (high - low + 1);
                padded <= self.tokens && padded as f64 <= (sum + added) as f64 * self.padding
            };
            let near = |length: Option<usize>| {
                length
                    .filter(|length| fits(*length))
                    .map(|length| (length.abs_diff(*first), length))
            };
            match (near(shorter), near(longer)) {
                (None, None) => break,
                (Some(one), Some(other)) if one.0 < other.0 => {
                    low -= 1;
                    sum += one.1;
                }
                (Some(one), None) => {
                    low -= 1;
                    sum += one.1;
                }
                (_, Some(other)) => {
                    high += 1;
                    sum += other.1;
                }
            }
        }
        let mut chosen = by_length[low..high].to_vec();
        chosen.sort_unstable();
        chosen
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy {
        texts: 4,
        tokens: 100,
        padding: 1.1,
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
    fn a_batch_stays_within_its_tokens() {
        assert_eq!(POLICY.choose(&[40, 40, 40]), [0, 1]);
    }

    #[test]
    fn a_text_that_is_longer_than_a_batch_goes_alone() {
        assert_eq!(POLICY.choose(&[500, 500]), [0]);
    }

    #[test]
    fn without_batches_each_text_goes_alone() {
        let policy = Policy { texts: 1, ..POLICY };
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
            texts in 1_usize..40,
            tokens in 1_usize..2000,
        ) {
            let policy = Policy { texts, tokens, padding: 1.15 };
            let chosen = policy.choose(&lengths);
            prop_assert_eq!(chosen[0], 0);
            prop_assert!(chosen.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(chosen.len() <= texts);
            let taken: Vec<usize> = chosen.iter().map(|place| lengths[*place]).collect();
            let padded = taken.iter().max().unwrap() * taken.len();
            let real: usize = taken.iter().sum();
            prop_assert!(chosen.len() == 1 || padded <= tokens);
            prop_assert!(padded as f64 <= real as f64 * 1.15 + 1e-6);
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
