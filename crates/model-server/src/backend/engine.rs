use std::{path::PathBuf, sync::Arc};

use clap::ValueEnum;
use thiserror::Error;

use crate::backend::tensor::{Signature, Tensor};

/// Who runs the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Built in, pure Rust.
    Rten,
    /// Microsoft's, a library that is loaded at the start.
    Onnxruntime,
}

impl EngineKind {
    /// The name that settings and logs use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::Onnxruntime => "onnxruntime",
        }
    }
}

/// Why there is no engine.
#[derive(Debug, Error)]
pub enum EngineUnavailable {
    /// Nothing says where the library is, and it is in none of the usual places.
    #[error(
        "--engine onnxruntime needs the library libonnxruntime.so, which is in none of: {0}; set ONNXRUNTIME_LIBRARY to its path, or take --engine rten"
    )]
    NotFound(String),
    /// The library cannot be used.
    #[error(
        "cannot use {path} as the onnxruntime library: {reason}; expected ONNX Runtime 1.20 or later for this machine, or take --engine rten"
    )]
    Library {
        /// What was tried.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No thread could be started.
    #[error("the engine cannot start its threads: {0}")]
    Threads(String),
}

/// What is wrong with a `model.onnx`.
#[derive(Debug, Error)]
pub enum GraphError {
    /// Not a graph, or one with an operator that the engine lacks.
    #[error("{0}; expected a model in the ONNX format whose weights are inside the file")]
    Unreadable(String),
    /// An input or output that is no tensor of numbers.
    #[error("its tensor {name:?} holds {datatype}, which this server does not handle")]
    Datatype {
        /// The tensor's name.
        name: String,
        /// What it holds.
        datatype: String,
    },
    /// An input that this server has nothing for.
    #[error(
        "its input {0:?} is unknown; expected input_ids, and beside it at most attention_mask, token_type_ids and position_ids"
    )]
    UnknownInput(String),
    /// Nothing takes the text.
    #[error("it has no input named input_ids")]
    NoInputIds,
    /// No single output to read.
    #[error("it has the outputs {0:?}; expected one, or one that is named \"logits\"")]
    Outputs(Vec<String>),
}

/// A forward pass that failed.
#[derive(Debug, Clone, Error)]
#[error("the forward pass failed: {0}")]
pub(crate) struct EngineError(pub(crate) String);

/// How many threads a forward pass may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parallelism {
    /// The calling thread alone: others have work of their own.
    Single,
    /// All threads of the server: nobody else needs them.
    All,
}

/// A graph that was read, shared by all workers.
pub(crate) trait Model: Send + Sync {
    /// Its inputs and outputs.
    fn signature(&self) -> &Signature;

    /// An engine for one worker.
    fn engine(self: Arc<Self>) -> Result<Box<dyn Engine>, EngineUnavailable>;
}

/// What a worker does with its engine, from inside [`Engine::enter`].
pub(crate) type EngineTask<'a> = &'a mut (dyn FnMut(&mut dyn Engine) + Send);

/// Runs forward passes for one worker thread. Each worker has its own.
pub(crate) trait Engine: Send {
    /// The wanted outputs for `inputs`, which stand in the order of the signature. `wanted` are
    /// places in the signature's outputs, and the answer follows their order.
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[usize],
        parallelism: Parallelism,
    ) -> Result<Vec<Tensor>, EngineError>;

    /// Runs `work` where calls of [`Engine::run`] are cheapest: some engines have threads of
    /// their own, and a call from outside pays for the way there.
    fn enter(&mut self, work: EngineTask<'_>);
}
