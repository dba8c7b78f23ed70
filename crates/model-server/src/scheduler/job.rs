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
    task::{classification::UnexpectedLogits, scores::NonFinite},
    tokenizer::text_tokenizer::{TextError, TokenIds},
};

/// Bytes of a text that takes milliseconds to be cut into tokens.
const LONG_TEXT: usize = 64 * 1024;

/// What to take through the model.
#[derive(Debug)]
pub(crate) enum JobInput {
    /// A text, for a model that reads texts.
    Text(String),
    /// All inputs of the graph, in the order of its signature.
    Tensors(Vec<Tensor>),
}

/// One piece of work that waits for its answer.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) input: JobInput,
    /// What its request holds of memory, if it is much.
    pub(crate) reservation: Option<Arc<MemoryReservation>>,
    /// When it was asked for.
    pub(crate) arrived: Instant,
    /// When its answer comes too late.
    pub(crate) deadline: Instant,
    /// Where the answer goes. Whoever drops the other end withdraws the job.
    pub(crate) reply: oneshot::Sender<Completion>,
}

/// A job's end, and where its time went.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) result: Result<InferenceOutput, InferenceError>,
    pub(crate) times: StageTimes,
}

/// What the model said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum InferenceOutput {
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

/// Why a job got no answer.
#[derive(Debug, Clone, Error)]
pub(crate) enum InferenceError {
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Shape(#[from] UnexpectedLogits),
    #[error(transparent)]
    Logits(#[from] NonFinite),
    #[error("the inference engine panicked: {0}")]
    Panicked(String),
    #[error("the inference engine is broken: {0}")]
    Broken(String),
    #[error("this release has no tokenizer")]
    NoTokenizer,
    #[error("its time was up before its turn came")]
    Expired,
}

/// A job that is ready for the model.
#[derive(Debug)]
pub(crate) struct PreparedJob {
    pub(crate) input: PreparedInput,
    /// What its tensors hold of memory, if it is much.
    pub(crate) reservation: Option<Arc<MemoryReservation>>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) tokenize: Duration,
    pub(crate) reply: oneshot::Sender<Completion>,
}

/// What a job has become, ready for a forward pass.
#[derive(Debug)]
pub(crate) enum PreparedInput {
    Tokens(TokenIds),
    Tensors(Vec<Tensor>),
}

impl PreparedJob {
    /// Answers the job. Whoever asked may have gone meanwhile; that is no failure.
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
        // Its tensors are gone too.
        drop(self.reservation);
    }
}

impl Job {
    /// Whether it takes so long to cut its text into tokens that nobody else should wait for it.
    pub(crate) fn is_slow_to_prepare(&self) -> bool {
        matches!(&self.input, JobInput::Text(text) if text.len() > LONG_TEXT)
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
