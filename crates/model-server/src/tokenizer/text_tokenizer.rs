use std::{
    fmt::{self, Display, Formatter},
    iter,
};

use thiserror::Error;
use tokenizers::{
    ModelWrapper, PaddingDirection, PaddingParams, PaddingStrategy, Tokenizer, TruncationDirection,
    TruncationParams, TruncationStrategy,
};

use crate::tokenizer::{
    post_processor::{PostProcessor, cut},
    token_ids::token_ids,
    word_cache::{WordCache, pieces},
};

/// Length in bytes of the pieces in which a long text is tokenized: normalizing takes a hundred times the text's
/// memory, and the rest of a long text is truncated anyway. Tests have short pieces, to compare texts of several.
const PIECE: usize = if cfg!(test) { 16 } else { 4096 };

/// The tokens of one text, or of a pair.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TokenIds {
    /// The ID of each token; at least one.
    pub(crate) ids: Vec<i64>,
    /// The sentence of each token, 0 or 1, if the tokenizer returns it; `None` means all 0.
    pub(crate) types: Option<Vec<i64>>,
    /// Whether a part of the text was truncated.
    pub(crate) truncated: bool,
}

/// Why a `tokenizer.json` cannot be used.
#[derive(Debug, Error)]
pub enum TokenizerError {
    /// It is not a tokenizer, or of an unknown kind.
    #[error("{0}; expected a tokenizer in the format of Hugging Face's tokenizers library")]
    Unreadable(String),
    /// A text gets other tokens each time.
    #[error(
        "its model has a dropout of {0}, so a text gets other tokens each time; set dropout to null"
    )]
    Dropout(f32),
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
    NoTokens,
    NoPairs,
    /// The tokenizer truncates only the second text, which is shorter than the surplus.
    TextTooLong,
    /// The tokenizer truncates only the first text, which is shorter than the surplus.
    PairTooLong,
    Tokenizer(String),
}

impl TextError {
    /// Returns the message, with the names that the client knows the text and its second text by.
    pub(crate) fn message(&self, text: &str, pair: &str) -> String {
        let too_long = |long: &str, other: &str| {
            format!(
                "{long} is too long: the tokenizer truncates only {other}, which is shorter than the surplus"
            )
        };
        match self {
            Self::NoTokens => format!("{text} holds nothing that the model can read"),
            Self::NoPairs => {
                format!("the tokenizer of this model makes no pairs; expected no {pair}")
            }
            Self::TextTooLong => too_long(text, pair),
            Self::PairTooLong => too_long(pair, text),
            Self::Tokenizer(error) => format!("the tokenizer cannot read the text: {error}"),
        }
    }
}

impl Display for TextError {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message("text", "text_pair"))
    }
}

/// A tokenizer fails, for example, on an unknown word if its vocabulary has no token for unknown words.
impl From<tokenizers::Error> for TextError {
    fn from(error: tokenizers::Error) -> Self {
        Self::Tokenizer(error.to_string())
    }
}

/// Tokenizes texts for one model.
pub(crate) struct TextTokenizer {
    /// Without truncation, padding, and post-processor.
    tokenizer: Tokenizer,
    post_processor: PostProcessor,
    /// Set if the tokens of a word do not depend on its context.
    word_cache: Option<WordCache>,
    limit: usize,
    /// The padding of the file.
    padding: Option<PaddingParams>,
    /// Whether each text gets the padding of the file.
    pads_texts: bool,
    truncation: TruncationParams,
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
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
    /// file's padding, only the side is used, unless [`Self::pad_texts`] asks for more.
    pub(crate) fn parse(bytes: &[u8], max_tokens: usize) -> Result<Self, TokenizerError> {
        let unreadable = |error: String| TokenizerError::Unreadable(error);
        let tokenizer = Tokenizer::from_bytes(bytes);
        let mut tokenizer = tokenizer.map_err(|error| unreadable(error.to_string()))?;
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && let Some(dropout) = model.dropout.filter(|dropout| *dropout > 0.0)
        {
            return Err(TokenizerError::Dropout(dropout));
        }
        let padding = tokenizer.get_padding().cloned();
        let own = tokenizer.get_truncation().cloned();
        let post_processor = tokenizer.get_post_processor().cloned();
        let post_processor = PostProcessor::new(post_processor).map_err(unreadable)?;
        let removed = tokenizer.with_truncation(None);
        removed.map_err(|error| unreadable(error.to_string()))?;
        tokenizer.with_padding(None);
        let mut tokenizer = Self {
            word_cache: WordCache::of(&tokenizer, &post_processor),
            tokenizer,
            post_processor,
            limit: own.as_ref().map_or(max_tokens, |own| own.max_length),
            padding,
            pads_texts: false,
            truncation: own.unwrap_or_default(),
        };
        tokenizer.lower_limit(max_tokens)?;
        Ok(tokenizer)
    }

    /// Lowers the most tokens of a text to `tokens`. Fails if the special tokens leave no room for text.
    pub(crate) fn lower_limit(&mut self, tokens: usize) -> Result<(), TokenizerError> {
        let special = self.post_processor.special(false);
        let limit = self.limit.min(tokens);
        if special >= limit {
            return Err(TokenizerError::LimitTooSmall { special, limit });
        }
        self.limit = limit;
        Ok(())
    }

    /// The most tokens of a text.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether padding goes before the text, for models that read the last token.
    pub(crate) fn pads_left(&self) -> bool {
        let mut padding = self.padding.iter();
        padding.any(|it| matches!(it.direction, PaddingDirection::Left))
    }

    /// Pads each text from now on as the file says.
    pub(crate) fn pad_texts(&mut self) {
        self.pads_texts = true;
    }

    /// Whether it separates a text from a second one, and both fit.
    pub(crate) fn makes_pairs(&self) -> bool {
        self.post_processor.makes_pairs() && self.post_processor.special(true) < self.limit
    }

    /// Returns the tokens of `text`: at least one, at most the limit.
    ///
    /// A text alone is truncated whichever text of a pair the file truncates.
    pub(crate) fn tokenize(&self, text: &str) -> Result<TokenIds, TextError> {
        let tokens = if let Some(ids) = self.cached(text) {
            TokenIds {
                ids,
                ..TokenIds::default()
            }
        } else {
            let ids = self.enough_ids(text)?;
            self.post_processor
                .truncate(ids, self.limit, &self.truncation)?
        };
        Ok(self.padded(expect_tokens(tokens)?))
    }

    /// Returns the tokens of `text` if the cache knows all of its words, or all but a few, which it learns.
    fn cached(&self, text: &str) -> Option<Vec<i64>> {
        let word_cache = self.word_cache.as_ref()?;
        word_cache
            .lookup(text, self.limit)
            .or_else(|unknown| {
                word_cache.learn(unknown, &self.tokenizer);
                word_cache.lookup(text, self.limit)
            })
            .ok()
    }

    /// Returns the token IDs of `text` without special ones, or more than the limit from the end that is kept.
    fn enough_ids(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        let direction = self.truncation.direction;
        // One more token than fits shows that the text is longer.
        let most = Some((self.limit + 1, direction));
        if self.word_cache.is_none() || direction == TruncationDirection::Left {
            return token_ids(&self.tokenizer, text, most);
        }
        let mut ids = Vec::new();
        for piece in pieces(text, PIECE) {
            ids.extend(token_ids(&self.tokenizer, piece, most)?);
            if ids.len() > self.limit {
                break;
            }
        }
        Ok(ids)
    }

    /// Returns the tokens of a text and a second one: at least one, at most the limit.
    pub(crate) fn tokenize_pair(&self, text: &str, pair: &str) -> Result<TokenIds, TextError> {
        if !self.makes_pairs() {
            return Err(TextError::NoPairs);
        }
        let (mut ids, mut pair_ids) = (self.enough_ids(text)?, self.enough_ids(pair)?);
        if self.longer_text_keeps_more() && ids.len().min(pair_ids.len()) > self.limit {
            // Both have more tokens than fit. The longer text must stay the longer one.
            let text_is_longer = self.count_tokens(text)? > self.count_tokens(pair)?;
            let direction = self.truncation.direction;
            cut(&mut ids, self.limit + 1, direction);
            let pair_length = self.limit + usize::from(!text_is_longer);
            cut(&mut pair_ids, pair_length, direction);
        }
        let tokens =
            self.post_processor
                .truncate_pair(ids, pair_ids, self.limit, &self.truncation)?;
        Ok(self.padded(expect_tokens(tokens)?))
    }

    /// Whether the longer one of two long texts keeps one token more, because an odd number of tokens fits.
    fn longer_text_keeps_more(&self) -> bool {
        let room = self.limit - self.post_processor.special(true);
        self.truncation.strategy == TruncationStrategy::LongestFirst && room % 2 == 1
    }

    /// Returns the number of tokens of `text` without special ones.
    fn count_tokens(&self, text: &str) -> tokenizers::Result<usize> {
        let count = |text| token_ids(&self.tokenizer, text, None).map(|ids| ids.len());
        match self.word_cache {
            Some(_) => pieces(text, PIECE).map(count).sum(),
            None => count(text),
        }
    }

    /// Pads a text, up to the limit, if the texts are padded as the file says.
    fn padded(&self, mut tokens: TokenIds) -> TokenIds {
        let Some(padding) = self.padding.as_ref().filter(|_| self.pads_texts) else {
            return tokens;
        };
        let length = tokens.ids.len();
        let padded = match padding.strategy {
            PaddingStrategy::BatchLongest => length,
            PaddingStrategy::Fixed(padded) => padded.min(self.limit),
        };
        let multiple = padding.pad_to_multiple_of.unwrap_or(1).max(1);
        let padded = padded.next_multiple_of(multiple).min(self.limit);
        let missing = padded.saturating_sub(length);
        let start = if self.pads_left() { 0 } else { length };
        let pad = |numbers: &mut Vec<i64>, number: u32| {
            let padding = iter::repeat_n(number.into(), missing);
            numbers.splice(start..start, padding);
        };
        if padding.pad_type_id != 0 && missing > 0 {
            tokens.types.get_or_insert_with(|| vec![0; length]);
        }
        if let Some(types) = &mut tokens.types {
            pad(types, padding.pad_type_id);
        }
        pad(&mut tokens.ids, padding.pad_id);
        tokens
    }
}

fn expect_tokens(tokens: TokenIds) -> Result<TokenIds, TextError> {
    if tokens.ids.is_empty() {
        return Err(TextError::NoTokens);
    }
    Ok(tokens)
}

#[cfg(test)]
mod families;
#[cfg(test)]
mod tests;
