use std::fmt::Debug;

use erased_serde::serialize_trait_object;
use serde::Serialize;
use thiserror::Error;
use utoipa::{
    ToSchema,
    openapi::{Ref, RefOr, Schema},
};

use crate::{
    backend::{
        engine::GraphError,
        tensor::{Signature, Tensor},
    },
    task::model_config::{ConfigError, ModelConfig},
    tokenizer::text_tokenizer::TokenizerError,
};

/// What the server makes of texts: how it reads the graph's output, and what it answers.
///
/// A forward pass turns each text into a row of numbers. Workers hand rows to handlers, which turn them into answers.
pub(crate) trait TextTask: Debug + Send + Sync {
    /// The index of the graph's output that the task reads.
    fn output(&self) -> usize;

    /// Returns the row of each text. `lengths` are the tokens of the texts, without padding.
    fn decode(&self, output: Tensor, lengths: &[usize]) -> Result<Vec<Vec<f32>>, UnexpectedOutput>;

    /// Returns the answer of `/predict` for a row. `top_k` is the number of scores that the client wants.
    fn answer(&self, row: &[f32], top_k: Option<usize>) -> Result<Prediction, UnexpectedOutput>;

    /// Returns the outputs of the Open Inference Protocol, each with one entry for each row. For its metadata, `rows`
    /// is empty.
    fn outputs(&self, rows: &[Vec<f32>]) -> Result<Vec<TextOutput>, UnexpectedOutput>;
}

/// A task, or why `config.json` and the graph do not make one.
pub(super) type BuiltTask = Result<Box<dyn TextTask>, TextTaskError>;

/// A line of the table.
#[derive(Debug)]
pub(crate) struct TextTaskKind {
    /// The value of `problem_type` in `config.json`.
    pub(super) problem_type: &'static str,
    /// Creates the task for a graph.
    pub(super) build: fn(&ModelConfig, &Signature) -> BuiltTask,
    /// Describes its answers: [`schema_of`] their type.
    pub(super) schema: fn(&mut Vec<NamedSchema>) -> RefOr<Schema>,
}

/// A schema of the OpenAPI document.
pub(super) type NamedSchema = (String, RefOr<Schema>);

/// Adds the schema of `T` and those that it names to `schemas`, and returns a reference to it.
pub(super) fn schema_of<T: ToSchema>(schemas: &mut Vec<NamedSchema>) -> RefOr<Schema> {
    T::schemas(schemas);
    schemas.push((T::name().into_owned(), T::schema()));
    Ref::from_schema_name(T::name()).into()
}

/// An answer of `/predict` for one text: a struct whose fields are those of the JSON object.
pub(crate) trait Answer: erased_serde::Serialize + Debug + Send {
    /// The label for the header `x-predicted-label`, if the task has labels.
    fn label(&self) -> Option<&str> {
        None
    }
}

serialize_trait_object!(Answer);

/// The answer for one text.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Prediction(pub(crate) Box<dyn Answer>);

/// An output of the Open Inference Protocol for texts.
#[derive(Debug, PartialEq)]
pub(crate) struct TextOutput {
    /// The name.
    pub(crate) name: &'static str,
    /// The numbers for each text; `None` for a single value.
    pub(crate) columns: Option<usize>,
    /// The values of all texts.
    pub(crate) values: TextValues,
}

/// The values of a [`TextOutput`].
#[derive(Debug, PartialEq)]
pub(crate) enum TextValues {
    Strings(Vec<String>),
    Numbers(Vec<f32>),
}

/// The graph returned something else than its task expects.
#[derive(Debug, Clone, Error, PartialEq)]
#[error("the model returned {given}; expected {expected}")]
pub(crate) struct UnexpectedOutput {
    pub(super) given: String,
    pub(super) expected: String,
}

/// Why a task cannot be created.
#[derive(Debug, Error)]
pub(crate) enum TextTaskError {
    /// `config.json` is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The graph is wrong.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// No text fits the graph.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
