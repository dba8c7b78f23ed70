use std::{path::PathBuf, sync::Arc};

use clap::ValueEnum;
use thiserror::Error;

use crate::backend::tensor::{Signature, Tensor};

/// The engine that runs a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// Built in, in pure Rust.
    Rten,
    /// Microsoft's ONNX Runtime, a library that is loaded at the start.
    Onnxruntime,
}

impl EngineKind {
    /// The name in settings and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rten => "rten",
            Self::Onnxruntime => "onnxruntime",
        }
    }

    /// The other engine.
    #[must_use]
    fn other(self) -> Self {
        match self {
            Self::Rten => Self::Onnxruntime,
            Self::Onnxruntime => Self::Rten,
        }
    }
}

/// Why an engine is not available.
#[derive(Debug, Error)]
pub enum EngineUnavailable {
    /// `ONNXRUNTIME_LIBRARY` is not set, and no default path has the library.
    #[error(
        "--engine onnxruntime needs the library libonnxruntime.so, which is in none of: {0}; set ONNXRUNTIME_LIBRARY to its path, or use --engine rten"
    )]
    NotFound(String),
    /// The library cannot be loaded.
    #[error(
        "cannot use {path} as the onnxruntime library: {reason}; expected ONNX Runtime 1.20 or later for this machine, or use --engine rten"
    )]
    Library {
        /// The path that was tried.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread could not be started.
    #[error("the engine cannot start its threads: {0}")]
    Threads(String),
}

/// Why a graph cannot be used.
#[derive(Debug, Error)]
pub enum GraphError {
    /// It is not an ONNX graph.
    #[error("{0}; expected a model in the ONNX format")]
    Unreadable(String),
    /// The engine cannot load it: it lacks an operator or a datatype, or the file is damaged.
    #[error(
        "the engine {} cannot load it: {reason}; expected a model in the ONNX format; --engine {} may load it",
        engine.name(), engine.other().name()
    )]
    Engine {
        /// The engine.
        engine: EngineKind,
        /// Its message.
        reason: String,
    },
    /// An input has another shape than one row of tokens for each text.
    #[error("its input {name:?} has the shape {shape}; expected [texts, tokens]")]
    InputShape {
        /// The name of the input.
        name: String,
        /// Its declared shape.
        shape: String,
    },
    /// Two inputs declare different lengths.
    #[error("its inputs declare different shapes: {0}; expected the same for all")]
    InputLengths(String),
    /// An input cannot take what the server has for it.
    #[error("its input {name:?} takes {datatype}; expected {expected}")]
    InputDatatype {
        /// The name of the input.
        name: String,
        /// Its declared type.
        datatype: &'static str,
        /// The types that the server can fill.
        expected: &'static str,
    },
    /// Each text must be padded, and the graph would read the padding as text.
    #[error(
        "it takes exactly {tokens} tokens, but it has no input attention_mask, and config.json names no pad_token_id: shorter texts cannot be padded; export it with attention_mask, with pad_token_id in config.json, or with a variable length"
    )]
    NoPadding {
        /// The tokens of each text.
        tokens: usize,
    },
    /// The logits are not one row for each text.
    #[error(
        "its output {name:?} has the shape {shape}; expected [texts, labels], as a text classifier has"
    )]
    OutputShape {
        /// The name of the output.
        name: String,
        /// Its declared shape.
        shape: String,
    },
    /// An input that the server cannot fill.
    #[error(
        "its input {0:?} is unknown; expected input_ids, and optionally attention_mask, token_type_ids, and position_ids"
    )]
    UnknownInput(String),
    /// No input takes the token IDs.
    #[error("it has no input named input_ids")]
    NoInputIds,
    /// The output with the logits is ambiguous.
    #[error("it has the outputs {0:?}; expected one, or one that is named \"logits\"")]
    Outputs(Vec<String>),
}

/// A failed forward pass.
#[derive(Debug, Clone, Error)]
#[error("the forward pass failed: {0}")]
pub(crate) struct EngineError(pub(crate) String);

/// How many threads a forward pass uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parallelism {
    /// The calling thread only, because other workers are busy.
    Single,
    /// All threads, because no other pass runs or waits.
    All,
}

/// A loaded graph, shared by all workers.
pub(crate) trait Model: Send + Sync {
    /// Its inputs and outputs.
    fn signature(&self) -> &Signature;

    /// Creates the engine of one worker.
    fn engine(self: Arc<Self>) -> Result<Box<dyn Engine>, EngineUnavailable>;
}

/// What a worker runs inside [`Engine::enter`].
pub(crate) type EngineTask<'a> = &'a mut (dyn FnMut(&mut dyn Engine) + Send);

/// Runs forward passes for one worker thread.
pub(crate) trait Engine: Send {
    /// Runs the graph. `inputs` are in the order of the signature. `wanted` are indices of outputs in the
    /// signature; the outputs are returned in their order.
    fn run(
        &mut self,
        inputs: &[Tensor],
        wanted: &[usize],
        parallelism: Parallelism,
    ) -> Result<Vec<Tensor>, EngineError>;

    /// Runs `work` on the thread from which [`Engine::run`] is cheapest. Some engines have their own threads,
    /// and a call from another thread costs a handover.
    fn enter(&mut self, work: EngineTask<'_>);
}
