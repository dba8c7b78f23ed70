use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    backend::{engine::EngineError, tensor::Tensor},
    memory_budget::MemoryReservation,
    scheduler::{batch_queue::QueueItem, stage_times::StageTimes},
    task::{text_model::PassError, text_task::UnexpectedOutput},
    tokenizer::text_tokenizer::{TextError, TokenIds},
};

/// Size in bytes from which tokenizing a text takes milliseconds.
const LONG_TEXT: usize = 64 * 1024;

/// The input of one job.
#[derive(Debug)]
pub(crate) enum JobInput {
    /// A text, for a model that reads texts.
    Text(String),
    /// A text and a second one, for a model that classifies pairs.
    TextPair(String, String),
    /// All inputs of the graph, in the order of its signature.
    Tensors(Vec<Tensor>),
}

/// One input that waits for its output.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) input: JobInput,
    /// The memory that its request reserved; `None` for a small request.
    pub(crate) reservation: Option<Arc<MemoryReservation>>,
    /// When the request submitted it.
    pub(crate) arrived: Instant,
    /// When its client stops waiting.
    pub(crate) deadline: Instant,
    /// Receives the result. Dropping the receiver cancels the job.
    pub(crate) reply: oneshot::Sender<Completion>,
}

/// The result of a job, and the duration of its stages.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) result: Result<InferenceOutput, InferenceError>,
    pub(crate) times: StageTimes,
}

/// What the model returned.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum InferenceOutput {
    /// For a text.
    Text {
        /// The numbers that its task makes an answer of.
        row: Vec<f32>,
        /// Number of tokens that the model read.
        tokens: usize,
        /// Whether the end of the text was truncated.
        truncated: bool,
    },
    /// For tensors: all outputs, in the order of the signature.
    Tensors(Vec<Tensor>),
}

/// Why a job has no output.
#[derive(Debug, Clone, Error)]
pub(crate) enum InferenceError {
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Output(#[from] UnexpectedOutput),
    #[error("the inference engine panicked: {0}")]
    Panicked(String),
    #[error("the inference engine is broken: {0}")]
    Broken(String),
    #[error("this release has no tokenizer")]
    NoTokenizer,
    #[error("it expired before a worker was free")]
    Expired,
}

impl From<PassError> for InferenceError {
    fn from(error: PassError) -> Self {
        match error {
            PassError::Engine(error) => Self::Engine(error),
            PassError::Output(error) => Self::Output(error),
        }
    }
}

/// A job that is ready for a forward pass.
#[derive(Debug)]
pub(crate) struct PreparedJob {
    pub(crate) input: PreparedInput,
    /// The memory that its tensors hold; `None` for a small request and for a text.
    pub(crate) reservation: Option<Arc<MemoryReservation>>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) tokenize: Duration,
    pub(crate) reply: oneshot::Sender<Completion>,
}

/// The input of a prepared job.
#[derive(Debug)]
pub(crate) enum PreparedInput {
    Tokens(TokenIds),
    Tensors(Vec<Tensor>),
}

impl PreparedJob {
    /// Sends the result. A client that has left is not an error.
    pub(crate) fn finish(
        self,
        result: Result<InferenceOutput, InferenceError>,
        began: Instant,
        ended: Instant,
    ) {
        let waited = began.saturating_duration_since(self.arrived);
        let times = StageTimes {
            queue: waited.saturating_sub(self.tokenize),
            tokenize: self.tokenize,
            inference: ended.saturating_duration_since(began),
        };
        let _ = self.reply.send(Completion { result, times });
        // Only now the tensors are freed.
        drop(self.reservation);
    }
}

impl Job {
    /// Whether tokenizing its texts takes so long that other jobs must not wait for it.
    pub(crate) fn is_slow_to_prepare(&self) -> bool {
        let length = match &self.input {
            JobInput::Text(text) => text.len(),
            JobInput::TextPair(text, pair) => text.len() + pair.len(),
            JobInput::Tensors(_) => 0,
        };
        length > LONG_TEXT
    }
}

impl QueueItem for Job {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}

impl QueueItem for PreparedJob {
    fn deadline(&self) -> Instant {
        self.deadline
    }

    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
