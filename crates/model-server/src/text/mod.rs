//! From text to token ids, and from logits to labels.

mod config;
mod scores;
mod tokenize;
mod words;

pub use config::ConfigError;
pub(crate) use config::{Filling, Labels, ModelConfig};
pub(crate) use scores::{NonFinite, Problem, descending, largest};
pub use tokenize::TokenizerError;
pub(crate) use tokenize::{TextError, TextTokenizer, TokenIds};
