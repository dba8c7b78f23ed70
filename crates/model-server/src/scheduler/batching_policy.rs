/// Which texts share a forward pass.
///
/// On a CPU, padding is the main cost of a batch: each text is padded to the longest one, and a padding token
/// costs as much as any other. A batch saves the fixed cost of a pass, which equals a few tokens of a large
/// model and many tokens of a small one. So only texts of similar length share a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(
    clippy::struct_field_names,
    reason = "each field is a maximum, and `max_` says so where it is used"
)]
pub(crate) struct BatchingPolicy {
    /// The most texts; 1 turns batching off.
    pub(crate) max_texts: usize,
    /// The most tokens, padding included. A single text may have more.
    pub(crate) max_tokens: usize,
    /// The most padding tokens that one more text may add: its own, and those of the other texts if it is the
    /// longest.
    pub(crate) max_padding: usize,
}

impl BatchingPolicy {
    /// Chooses the texts that run with the oldest one: the oldest of those that fit.
    ///
    /// `lengths` are the tokens of all waiting texts, oldest first. Returns indices into `lengths` in ascending
    /// order. Index 0 is always among them, so no text starves.
    ///
    /// Choosing the texts of nearest length would save some padding, but a text of an unusual length would be
    /// overtaken again and again.
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
    fn batch_holds_oldest_texts_of_equal_length() {
        assert_eq!(POLICY.choose(&[20, 20, 20, 20, 20]), [0, 1, 2, 3]);
    }

    #[test]
    fn short_texts_skip_long_texts() {
        assert_eq!(POLICY.choose(&[10, 80, 11, 80, 10]), [0, 2, 4]);
    }

    #[test]
    fn older_text_precedes_better_fitting_text() {
        assert_eq!(POLICY.choose(&[20, 22, 22, 22, 20, 20, 20]), [0, 1, 2, 3]);
    }

    #[test]
    fn batch_respects_max_tokens() {
        assert_eq!(POLICY.choose(&[40, 40, 40]), [0, 1]);
    }

    #[test]
    fn text_longer_than_max_tokens_runs_alone() {
        assert_eq!(POLICY.choose(&[500, 500]), [0]);
    }

    #[test]
    fn each_text_runs_alone_without_batching() {
        let policy = BatchingPolicy {
            max_texts: 1,
            ..POLICY
        };
        assert_eq!(policy.choose(&[5, 5, 5]), [0]);
    }

    #[test]
    fn choose_returns_nothing_for_empty_queue() {
        assert!(POLICY.choose(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn choice_includes_oldest_and_respects_limits(
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
        fn repeated_choices_serve_every_text(
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
