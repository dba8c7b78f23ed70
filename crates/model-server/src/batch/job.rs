use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::sync::oneshot;

use super::queue::Waiting;
use crate::{
    engine::{EngineError, Tensor},
    model::LogitsShape,
    room::Room,
    text::{NonFinite, TextError, TokenIds},
};

/// Bytes of a text that takes milliseconds to be cut into tokens.
const LONG_TEXT: usize = 64 * 1024;

/// What to take through the model.
#[derive(Debug)]
pub(crate) enum Work {
    /// A text, for a model that reads texts.
    Text(String),
    /// All inputs of the graph, in the order of its signature.
    Tensors(Vec<Tensor>),
}

/// One piece of work that waits for its answer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) work: Work,
    /// What its request holds of memory, if it is much.
    pub(crate) room: Option<Arc<Room>>,
    /// When it was asked for.
    pub(crate) arrived: Instant,
    /// When its answer comes too late.
    pub(crate) deadline: Instant,
    /// Where the answer goes. Whoever drops the other end withdraws the job.
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// A job's end, and where its time went.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) outcome: Result<Outcome, InferenceError>,
    pub(crate) times: StageTimes,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// Of a text.
    Text {
        /// One number per label.
        logits: Vec<f32>,
        /// Tokens that the model read.
        tokens: usize,
        /// Whether the end of the text was cut off.
        truncated: bool,
    },
    /// Of tensors: all outputs, in the order of the signature.
    Tensors(Vec<Tensor>),
}

/// How long each stage of a job took, and when inference began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StageTimes {
    /// Waiting: for a free worker, and then for its turn in a batch.
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

/// Why a job got no answer.
#[derive(Debug, Clone, Error)]
pub(crate) enum InferenceError {
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Shape(#[from] LogitsShape),
    #[error(transparent)]
    Logits(#[from] NonFinite),
    #[error("the inference engine panicked: {0}")]
    Panicked(String),
    #[error("the inference engine is broken: {0}")]
    Broken(String),
    #[error("this release has no tokenizer")]
    NoTokenizer,
    #[error("its time was up before its turn came")]
    TooLate,
}

/// A job that is ready for the model.
#[derive(Debug)]
pub(crate) struct PreparedJob {
    pub(super) input: Input,
    /// What its tensors hold of memory, if it is much.
    pub(super) room: Option<Arc<Room>>,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
    pub(super) tokenize: Duration,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// What a job has become, ready for a forward pass.
#[derive(Debug)]
pub(crate) enum Input {
    Tokens(TokenIds),
    Tensors(Vec<Tensor>),
}

impl PreparedJob {
    /// Answers the job. Whoever asked may have gone meanwhile; that is no failure.
    pub(super) fn finish(
        self,
        outcome: Result<Outcome, InferenceError>,
        began: Instant,
        ended: Instant,
    ) {
        let waited = began.saturating_duration_since(self.arrived);
        let times = StageTimes {
            queue: waited.saturating_sub(self.tokenize),
            tokenize: self.tokenize,
            inference: ended.saturating_duration_since(began),
        };
        let _ = self.answer.send(Answer { outcome, times });
        // Its tensors are gone too.
        drop(self.room);
    }
}

impl Job {
    /// Whether it takes so long to cut its text into tokens that nobody else should wait for it.
    pub(super) fn is_slow_to_prepare(&self) -> bool {
        matches!(&self.work, Work::Text(text) if text.len() > LONG_TEXT)
    }
}

impl Waiting for Job {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}

impl Waiting for PreparedJob {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }
}
