use thiserror::Error;
use tokenizers::{
    PaddingDirection, TruncationParams, canonicalize_str, from_json,
    pipeline::{EncodeOptions, Override, PipelineTokenizer},
};

use crate::tokenizer::word_cache::WordCache;

/// The tokens of one text.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TokenIds {
    /// The ID of each token; at least one.
    pub(crate) ids: Vec<i64>,
    /// The sentence of each token, 0 or 1, if the tokenizer returns it; `None` means all 0.
    pub(crate) types: Option<Vec<i64>>,
    /// Whether the end of the text was truncated.
    pub(crate) truncated: bool,
}

/// Why a `tokenizer.json` cannot be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// It is not a tokenizer, or of an unknown kind.
    #[error("{0}; expected a tokenizer in the format of Hugging Face's tokenizers library")]
    Unreadable(String),
    /// The special tokens alone reach the token limit.
    #[error(
        "it adds {special} special tokens to every text, but the model takes {limit} tokens: no text fits"
    )]
    LimitTooSmall {
        /// Special tokens in every text.
        special: usize,
        /// The token limit of the model.
        limit: usize,
    },
}

/// Why a text has no tokens.
#[derive(Debug, Clone, Error)]
pub(crate) enum TextError {
    #[error("text holds nothing that the model can read")]
    NoTokens,
    #[error("the tokenizer failed: {0}")]
    Tokenizer(String),
}

/// Tokenizes texts for one model.
pub(crate) struct TextTokenizer {
    tokenizer: PipelineTokenizer,
    /// Set if the tokens of a word do not depend on its context.
    word_cache: Option<WordCache>,
    limit: usize,
    pads_left: bool,
    untruncated_options: EncodeOptions,
    truncated_options: EncodeOptions,
}

impl std::fmt::Debug for TextTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TextTokenizer")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl TextTokenizer {
    /// Parses a `tokenizer.json`.
    ///
    /// Texts are truncated to `max_tokens` tokens (special ones included), or fewer if the file says so. Of the
    /// file's padding, only the side is used: a batch is padded to its longest text.
    pub(crate) fn parse(bytes: &[u8], max_tokens: usize) -> Result<Self, TokenizerError> {
        let unreadable =
            |error: &dyn std::fmt::Display| TokenizerError::Unreadable(error.to_string());
        let text = std::str::from_utf8(bytes).map_err(|error| unreadable(&error))?;
        // The library parses only the newest form of the format; this converts older ones.
        let text = canonicalize_str(text).map_err(|error| unreadable(&error))?;
        let tokenizer = from_json(&text).map_err(|error| unreadable(&error))?;
        let pads_left = tokenizer
            .get_padding()
            .is_some_and(|it| matches!(it.direction, PaddingDirection::Left));
        let own = tokenizer.get_truncation().cloned();
        let limit = own
            .as_ref()
            .map_or(max_tokens, |own| own.max_length.min(max_tokens));
        let special = tokenizer.get_post_processor().single.n_special();
        if special >= limit {
            return Err(TokenizerError::LimitTooSmall { special, limit });
        }
        let options = |truncation| EncodeOptions {
            padding: Override::Off,
            truncation,
            ..EncodeOptions::default()
        };
        Ok(Self {
            word_cache: WordCache::of(&tokenizer),
            tokenizer,
            limit,
            pads_left,
            untruncated_options: options(Override::Off),
            truncated_options: options(Override::With(TruncationParams {
                max_length: limit,
                ..own.unwrap_or_default()
            })),
        })
    }

    /// Lowers the most tokens of a text to `tokens`, for a graph of fixed length.
    pub(crate) fn lower_limit(&mut self, tokens: usize) -> Result<(), TokenizerError> {
        let special = self.tokenizer.get_post_processor().single.n_special();
        let limit = self.limit.min(tokens);
        if special >= limit {
            return Err(TokenizerError::LimitTooSmall { special, limit });
        }
        self.limit = limit;
        if let Override::With(truncation) = &mut self.truncated_options.truncation {
            truncation.max_length = limit;
        }
        Ok(())
    }

    /// The most tokens of a text.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether padding goes before the text, for models that read the last token.
    pub(crate) fn pads_left(&self) -> bool {
        self.pads_left
    }

    /// Returns the tokens of `text`: at least one, at most the limit.
    pub(crate) fn tokenize(&self, text: &str) -> Result<TokenIds, TextError> {
        if let Some(word_cache) = &self.word_cache {
            match word_cache.lookup(text, self.limit) {
                Ok(ids) if !ids.is_empty() => {
                    return Ok(TokenIds {
                        ids,
                        ..TokenIds::default()
                    });
                }
                Ok(_) => return Err(TextError::NoTokens),
                Err(unknown) => word_cache.learn(unknown, &self.tokenizer),
            }
        }
        let untruncated = self.encode(text, &self.untruncated_options)?;
        if untruncated.ids.is_empty() {
            return Err(TextError::NoTokens);
        }
        if untruncated.ids.len() <= self.limit {
            return Ok(untruncated);
        }
        // Only the library knows which end to truncate, and where the special tokens go.
        let truncated = self.encode(text, &self.truncated_options)?;
        Ok(TokenIds {
            truncated: true,
            ..truncated
        })
    }

    fn encode(&self, text: &str, options: &EncodeOptions) -> Result<TokenIds, TextError> {
        let encodings = self.tokenizer.encode(text, options).wait();
        let encoding = encodings
            .map_err(|error| TextError::Tokenizer(error.to_string()))?
            .pop()
            .ok_or(TextError::NoTokens)?;
        Ok(TokenIds {
            ids: encoding
                .ids()
                .iter()
                .map(|token| token.id().into())
                .collect(),
            types: encoding
                .type_ids()
                .map(|types| types.iter().map(|kind| (*kind).into()).collect()),
            truncated: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A WordPiece tokenizer with six words and two special tokens.
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
    fn text_is_tokenized_between_special_tokens() {
        let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 512).unwrap();
        let tokens = tokenizer.tokenize("Good films, GOOD").unwrap();
        assert_eq!(tokens.ids, [1, 3, 4, 5, 0, 3, 2]);
        assert!(tokens.types.is_none() && !tokens.truncated);
    }

    #[test]
    fn long_text_is_truncated_and_keeps_special_tokens() {
        let tokenizer = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 5).unwrap();
        let tokens = tokenizer.tokenize(&"good film ".repeat(1000)).unwrap();
        assert_eq!(tokens.ids, [1, 3, 4, 3, 2]);
        assert!(tokens.truncated);
    }

    #[test]
    fn tokenizer_file_may_lower_the_limit_and_never_pads() {
        let extra = r#""truncation": {"direction": "Right", "max_length": 4,
                "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 128}, "direction": "Right",
                "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[UNK]"},"#;
        let tokenizer = TextTokenizer::parse(tokenizer_file(extra).as_bytes(), 512).unwrap();
        assert_eq!(tokenizer.tokenize("good").unwrap().ids, [1, 3, 2]);
        let truncated = tokenizer.tokenize("good good good good").unwrap();
        assert_eq!(truncated.ids, [1, 3, 3, 2]);
    }

    #[test]
    fn limit_too_small_for_text_is_refused() {
        let error = TextTokenizer::parse(tokenizer_file(PLAIN).as_bytes(), 2).unwrap_err();
        assert!(error.to_string().contains("no text fits"), "{error}");
    }

    #[test]
    fn invalid_tokenizer_file_is_refused() {
        let error = TextTokenizer::parse(b"{}", 512).unwrap_err();
        assert!(error.to_string().contains("Hugging Face"), "{error}");
    }

    #[test]
    fn token_ids_match_python_in_every_script() {
        let crate_directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let cases = std::fs::read(crate_directory.join("tests/data/token_ids.json")).unwrap();
        let cases: serde_json::Value = serde_json::from_slice(&cases).unwrap();
        let mut compared = 0;
        for release in ["v1", "v2"] {
            let path = format!("../../models/sentiment/{release}/tokenizer.json");
            let bytes = std::fs::read(crate_directory.join(path)).unwrap();
            let tokenizer = TextTokenizer::parse(&bytes, 128).unwrap();
            for case in cases["cases"].as_array().unwrap() {
                if case["release"] == release {
                    let text = case["text"].as_str().unwrap();
                    let tokens = tokenizer.tokenize(text).unwrap();
                    assert_eq!(serde_json::json!(tokens.ids), case["ids"], "{text:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 50, "{compared}");
    }

    #[test]
    fn bpe_and_unigram_token_ids_match_python() {
        let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let cases = std::fs::read(data.join("trained_token_ids.json")).unwrap();
        let cases: serde_json::Value = serde_json::from_slice(&cases).unwrap();
        for (name, file) in [
            ("bpe", "models/quantizing/1/tokenizer.json"),
            ("unigram", "unigram.json"),
        ] {
            let bytes = std::fs::read(data.join(file)).unwrap();
            let tokenizer = TextTokenizer::parse(&bytes, 10_000).unwrap();
            let of_this = |case: &&serde_json::Value| case["tokenizer"] == name;
            let cases: Vec<_> = cases["cases"]
                .as_array()
                .unwrap()
                .iter()
                .filter(of_this)
                .collect();
            assert!(cases.len() > 20);
            for case in cases {
                let text = case["text"].as_str().unwrap();
                let tokens = tokenizer.tokenize(text).unwrap();
                assert_eq!(
                    serde_json::json!(tokens.ids),
                    case["ids"],
                    "{name}: {text:?}"
                );
            }
        }
    }
}
