//! From texts to token IDs.

pub(crate) mod text_tokenizer;
mod word_cache;
