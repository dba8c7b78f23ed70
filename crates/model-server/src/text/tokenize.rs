use thiserror::Error;
use tokenizers::{Tokenizer, TruncationParams};

/// The tokens of one text, as a model's input names them; all three have the same length.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TokenIds {
    /// The tokens' numbers in the vocabulary.
    pub(crate) input_ids: Vec<i32>,
    /// 1 for every token: nothing is padded.
    pub(crate) attention_mask: Vec<i32>,
    /// Which of two sentences a token belongs to; the tokenizer says 0 for a single one.
    pub(crate) token_type_ids: Vec<i32>,
}

/// What is wrong with a `tokenizer.json`.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// Not a tokenizer, or one of a kind that is not known.
    #[error("{0}; expected a tokenizer in the format of Hugging Face's tokenizers library")]
    Unreadable(String),
    /// The special tokens alone fill the model's limit.
    #[error(
        "it adds {special} special tokens to every text, but the model takes {limit} tokens: no text fits"
    )]
    NoRoom {
        /// Tokens that are added to every text.
        special: usize,
        /// Tokens that the model takes.
        limit: usize,
    },
}

/// Why one text has no tokens.
#[derive(Debug, Error)]
pub(crate) enum TextError {
    #[error("text holds nothing that the model can read")]
    NoTokens,
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
}

/// Cuts a text into the tokens that the model was trained on.
#[derive(Debug)]
pub(crate) struct TextTokenizer(Tokenizer);

impl TextTokenizer {
    /// Reads the bytes of a `tokenizer.json`.
    ///
    /// Texts are cut after `max_tokens` tokens (special ones included), or earlier where the
    /// file itself cuts earlier. Padding that the file asks for is left out: it costs time, and
    /// one text alone needs none.
    pub(crate) fn parse(bytes: &[u8], max_tokens: usize) -> Result<Self, TokenizerError> {
        let mut tokenizer = Tokenizer::from_bytes(bytes)
            .map_err(|error| TokenizerError::Unreadable(error.to_string()))?;
        let limit = tokenizer
            .get_truncation()
            .map_or(max_tokens, |own| own.max_length.min(max_tokens));
        // The library subtracts one from the other without looking.
        let special = tokenizer.get_post_processor().map_or(0, |post| {
            tokenizers::PostProcessor::added_tokens(post, false)
        });
        if special >= limit {
            return Err(TokenizerError::NoRoom { special, limit });
        }
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(TruncationParams {
                max_length: limit,
                ..TruncationParams::default()
            }))
            .map_err(|error| TokenizerError::Unreadable(error.to_string()))?;
        Ok(Self(tokenizer))
    }

    /// The tokens of `text`: at least one, at most the limit.
    pub(crate) fn tokenize(&self, text: &str) -> Result<TokenIds, TextError> {
        let encoding = self
            .0
            .encode_fast(text, true)
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let signed = |ids: &[u32]| -> Result<Vec<i32>, TextError> {
            ids.iter()
                .map(|id| i32::try_from(*id))
                .collect::<Result<_, _>>()
                .map_err(|error| TextError::Tokenizer(error.to_string()))
        };
        if encoding.is_empty() {
            return Err(TextError::NoTokens);
        }
        Ok(TokenIds {
            input_ids: signed(encoding.get_ids())?,
            attention_mask: signed(encoding.get_attention_mask())?,
            token_type_ids: signed(encoding.get_type_ids())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WordPiece tokenizer of six words that wraps every text in two special tokens.
    fn tokenizer_file(extra: &str) -> String {
        format!(
            r#"{{"version": "1.0", {extra}
            "added_tokens": [], "decoder": null,
            "normalizer": {{"type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}},
            "pre_tokenizer": {{"type": "BertPreTokenizer"}},
            "post_processor": {{"type": "BertProcessing", "sep": ["[SEP]", 2], "cls": ["[CLS]", 1]}},
            "model": {{"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "\#\#",
                "max_input_chars_per_word": 100,
                "vocab": {{"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "good": 3, "film": 4, "\#\#s": 5}}}}}}"#
        )
        .replace("\\#", "#")
    }

    const PLAIN: &str = r#""truncation": null, "padding": null,"#;

    #[test]
    fn a_text_becomes_pieces_between_the_special_tokens() {
        let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 512).unwrap();
        let tokens = tokenizer.tokenize("Good films, GOOD").unwrap();
        assert_eq!(tokens.input_ids, [1, 3, 4, 5, 0, 3, 2]);
        assert_eq!(tokens.attention_mask, [1; 7]);
        assert_eq!(tokens.token_type_ids, [0; 7]);
    }

    #[test]
    fn a_long_text_is_cut_to_the_limit_and_keeps_its_special_tokens() {
        let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 5).unwrap();
        let tokens = tokenizer.tokenize(&"good film ".repeat(1000)).unwrap();
        assert_eq!(tokens.input_ids, [1, 3, 4, 3, 2]);
    }

    #[test]
    fn padding_and_a_lower_limit_come_from_the_file_only_as_far_as_they_help() {
        let extra = r#""truncation": {"direction": "Right", "max_length": 4,
                "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 128}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]"},"#;
        let tokenizer = TextTokenizer::parse(tokenizer_file(extra).as_bytes(), 512).unwrap();
        assert_eq!(tokenizer.tokenize("good").unwrap().input_ids, [1, 3, 2]);
        let cut = tokenizer.tokenize("good good good good").unwrap();
        assert_eq!(cut.input_ids, [1, 3, 3, 2]);
    }

    #[test]
    fn a_limit_without_room_for_text_is_refused() {
        let error = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 2).unwrap_err();
        assert!(error.to_string().contains("no text fits"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_refused_by_saying_what_was_expected() {
        let error = TextTokenizer::parse(b"{}", 512).unwrap_err();
        assert!(error.to_string().contains("Hugging Face"), "{error}");
    }
}
