use std::time::Duration;

/// How long each stage of a job took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StageTimes {
    /// Waiting for a free worker and for a batch.
    pub(crate) queue: Duration,
    /// Tokenizing the text.
    pub(crate) tokenize: Duration,
    /// The forward pass of the batch.
    pub(crate) inference: Duration,
}

impl StageTimes {
    /// The longer time of each stage, for a request of several texts.
    pub(crate) fn longest(self, other: Self) -> Self {
        Self {
            queue: self.queue.max(other.queue),
            tokenize: self.tokenize.max(other.tokenize),
            inference: self.inference.max(other.inference),
        }
    }
}
