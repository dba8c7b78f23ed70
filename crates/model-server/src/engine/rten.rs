use std::sync::Arc;

use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView};
use thiserror::Error;

use super::{Engine, EngineError};
use crate::text::TokenIds;

/// The output that exporters name so, where a graph has several.
const LOGITS: &str = "logits";

/// What is wrong with a `model.onnx`.
#[derive(Debug, Error)]
pub enum GraphError {
    /// Not a graph, or one with an operator that the engine lacks.
    #[error("{0}; expected a text classifier in the ONNX format")]
    Unreadable(String),
    /// An input that this server has nothing for.
    #[error(
        "its input {0:?} is unknown; expected input_ids, and beside it at most attention_mask and token_type_ids"
    )]
    UnknownInput(String),
    /// Nothing takes the text.
    #[error("it has no input named input_ids")]
    NoInputIds,
    /// No single output to read.
    #[error("it has the outputs {0:?}; expected one, or one that is named {LOGITS:?}")]
    Outputs(Vec<String>),
}

/// Which part of a text's tokens an input of the graph takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum InputKind {
    Ids,
    Mask,
    Types,
}

/// A graph that was read, shared by the workers' engines.
pub(crate) struct RtenModel {
    model: Model,
    inputs: Vec<(NodeId, InputKind)>,
    logits: NodeId,
}

impl RtenModel {
    /// Reads the bytes of a `.onnx` file.
    ///
    /// Weights in further files are refused: the release's digest would not cover them.
    pub(crate) fn parse(bytes: Vec<u8>) -> Result<Self, GraphError> {
        let mut options = ModelOptions::with_all_ops();
        // Weights are laid out for multiplication once, here, and not in every forward pass.
        options.prepack_weights(true);
        let model = options
            .load(bytes)
            .map_err(|error| GraphError::Unreadable(error.to_string()))?;
        let inputs = inputs_of(&model)?;
        let logits = logits_of(&model)?;
        Ok(Self {
            model,
            inputs,
            logits,
        })
    }

    /// An engine for one worker, with a thread of its own.
    pub(crate) fn engine(self: &Arc<Self>) -> RtenEngine {
        RtenEngine {
            model: Arc::clone(self),
            pool: Arc::new(ThreadPool::with_num_threads(1)),
        }
    }
}

fn inputs_of(model: &Model) -> Result<Vec<(NodeId, InputKind)>, GraphError> {
    let inputs: Vec<_> = model
        .input_ids()
        .iter()
        .map(|id| match name_of(model, *id).as_str() {
            "input_ids" => Ok((*id, InputKind::Ids)),
            "attention_mask" => Ok((*id, InputKind::Mask)),
            "token_type_ids" => Ok((*id, InputKind::Types)),
            other => Err(GraphError::UnknownInput(other.to_owned())),
        })
        .collect::<Result<_, _>>()?;
    if inputs.iter().any(|(_, kind)| *kind == InputKind::Ids) {
        Ok(inputs)
    } else {
        Err(GraphError::NoInputIds)
    }
}

fn logits_of(model: &Model) -> Result<NodeId, GraphError> {
    let outputs = model.output_ids();
    let named = outputs.iter().find(|id| name_of(model, **id) == LOGITS);
    match (named, outputs) {
        (Some(id), _) => Ok(*id),
        (None, [only]) => Ok(*only),
        (None, _) => Err(GraphError::Outputs(
            outputs.iter().map(|id| name_of(model, *id)).collect(),
        )),
    }
}

fn name_of(model: &Model, id: NodeId) -> String {
    let info = model.node_info(id);
    info.and_then(|info| info.name()).unwrap_or("").to_owned()
}

/// One worker's engine: the shared graph, and a pool of one thread that runs it.
///
/// With as many workers as CPUs, several threads per forward pass would only get in each other's
/// way.
pub(crate) struct RtenEngine {
    model: Arc<RtenModel>,
    pool: Arc<ThreadPool>,
}

impl Engine for RtenEngine {
    fn infer(&mut self, tokens: TokenIds) -> Result<Vec<f32>, EngineError> {
        let failed = |error: &dyn std::error::Error| EngineError(error.to_string());
        let shape = [1, tokens.input_ids.len()];
        let mut inputs: Vec<(NodeId, ValueOrView<'_>)> =
            Vec::with_capacity(self.model.inputs.len());
        let TokenIds {
            input_ids,
            attention_mask,
            token_type_ids,
        } = &tokens;
        for (id, kind) in &self.model.inputs {
            let data = match kind {
                InputKind::Ids => input_ids,
                InputKind::Mask => attention_mask,
                InputKind::Types => token_type_ids,
            };
            // The engine takes i32 where the file says i64.
            let view = rten::ValueView::from_shape(shape, data).map_err(|error| failed(&error))?;
            inputs.push((*id, view.into()));
        }
        let options = RunOptions::default().with_thread_pool(Some(Arc::clone(&self.pool)));
        let [logits] = self
            .model
            .model
            .run_n(inputs, [self.model.logits], Some(options))
            .map_err(|error| failed(&error))?;
        row_of(logits)
    }

    fn enter<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        let pool = Arc::clone(&self.pool);
        pool.run(|| work(self))
    }
}

/// The only row of a 1×N tensor of 32-bit floats.
fn row_of(logits: Value) -> Result<Vec<f32>, EngineError> {
    let (shape, row) = logits
        .into_shape_vec::<f32, 2>()
        .map_err(|error| EngineError(format!("the logits are not a matrix: {error}")))?;
    if shape[0] == 1 {
        Ok(row)
    } else {
        Err(EngineError(format!(
            "the logits have the shape {shape:?}; expected one row for one text"
        )))
    }
}
