//! From text to token ids, and from logits to a label.

mod config;
mod softmax;
mod tokenize;

pub use config::ConfigError;
pub(crate) use config::{Labels, ModelConfig};
pub(crate) use softmax::{NonFinite, most_likely};
pub use tokenize::TokenizerError;
pub(crate) use tokenize::{TextError, TextTokenizer, TokenIds};
