//! From texts to token IDs.

mod post_processor;
pub(crate) mod text_tokenizer;
mod token_ids;
mod word_cache;
