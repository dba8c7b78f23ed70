//! From a text to the IDs of its tokens, without special ones.

use tokenizers::{
    Model as _, OffsetReferential, OffsetType, PreTokenizer as _, Tokenizer, TruncationDirection,
};

/// Returns the token IDs of `text`; with `most`, only so many of them from one end, and some more.
///
/// `Tokenizer::encode_fast` returns the same. It also keeps a string and six numbers for each token, which is a lot
/// for a text of a million tokens, and it always computes all of them.
pub(super) fn token_ids(
    tokenizer: &Tokenizer,
    text: &str,
    most: Option<(usize, TruncationDirection)>,
) -> tokenizers::Result<Vec<u32>> {
    let added = tokenizer.get_added_vocabulary();
    let mut words = added.extract_and_normalize(tokenizer.get_normalizer(), text);
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut words)?;
    }
    tokenizer
        .get_model()
        .tokenize_in_pretokenized(&mut words, most)?;
    let words = words.get_splits(OffsetReferential::Normalized, OffsetType::None);
    let tokens = words
        .into_iter()
        .filter_map(|(_, _, tokens)| tokens.as_ref());
    Ok(tokens.flatten().map(|token| token.id).collect())
}
