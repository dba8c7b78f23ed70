use std::time::Duration;

/// How long each stage of a job took, and when inference began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StageTimes {
    /// QueueItem: for a free worker, and then for its turn in a batch.
    pub(crate) queue: Duration,
    /// Cutting the text into tokens.
    pub(crate) tokenize: Duration,
    /// The forward pass of its batch.
    pub(crate) inference: Duration,
}

impl StageTimes {
    /// The longest of each stage: what a request of several texts waited for.
    pub(crate) fn longest(self, other: Self) -> Self {
        Self {
            queue: self.queue.max(other.queue),
            tokenize: self.tokenize.max(other.tokenize),
            inference: self.inference.max(other.inference),
        }
    }
}
