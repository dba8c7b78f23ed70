use std::{
    collections::HashMap,
    iter,
    sync::{PoisonError, RwLock},
};

use tokenizers::{ModelWrapper, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use crate::tokenizer::{post_processor::PostProcessor, token_ids::token_ids};

/// What separates words. Other white space depends on the normalizer.
const SPACES: [char; 4] = [' ', '\t', '\n', '\r'];
/// The capacity in words: the everyday vocabulary of a language, 2 to 3 MB.
const MAX_WORDS: usize = 16_384;
/// The longest cached word in bytes; longer ones rarely occur twice.
const MAX_WORD_BYTES: usize = 32;
/// How many unknown words of one text are cached for later texts.
const MAX_LEARNED_PER_TEXT: usize = 4;

/// Caches the tokens of words.
///
/// Normalizing and tokenizing a text takes microseconds, more than the forward pass of a small model, and most
/// words occur often. This works for tokenizers of BERT's family only: they normalize each character alone and
/// split at spaces, so the tokens of a text are those of its words in sequence.
#[derive(Debug)]
pub(crate) struct WordCache {
    /// The special tokens before and after each text.
    before: Vec<i64>,
    after: Vec<i64>,
    /// Clients choose the words, so the hash is keyed like the standard library's. It is a few times faster.
    known: RwLock<HashMap<Box<str>, Box<[i64]>, ahash::RandomState>>,
}

impl WordCache {
    /// Creates an empty cache; `None` if tokens depend on the context of a word.
    pub(crate) fn of(tokenizer: &Tokenizer, post_processor: &PostProcessor) -> Option<Self> {
        let by_word = matches!(
            (
                tokenizer.get_normalizer(),
                tokenizer.get_pre_tokenizer(),
                tokenizer.get_model(),
            ),
            (
                Some(NormalizerWrapper::BertNormalizer(_)),
                Some(PreTokenizerWrapper::BertPreTokenizer(_)),
                ModelWrapper::WordPiece(_),
            )
        );
        let added = tokenizer.get_added_tokens_decoder();
        let mut added = added.values();
        if !by_word || added.any(|token| token.content.contains(char::is_whitespace)) {
            return None;
        }
        let (before, after) = post_processor.around()?;
        Some(Self {
            before,
            after,
            known: RwLock::default(),
        })
    }

    /// Returns the tokens of `text` if all of its words are known and fit into `limit`.
    pub(crate) fn lookup<'a>(
        &self,
        text: &'a str,
        limit: usize,
    ) -> Result<Vec<i64>, UnknownWords<'a>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids =
            Vec::with_capacity(limit.min(text.len() / 2 + self.before.len() + self.after.len()));
        ids.extend_from_slice(&self.before);
        let mut unknown = Vec::new();
        for word in text.split(SPACES).filter(|word| !word.is_empty()) {
            match known.get(word) {
                Some(tokens) => ids.extend_from_slice(tokens),
                None if word.len() <= MAX_WORD_BYTES => unknown.push(word),
                None => return Err(UnknownWords(unknown)),
            }
            if unknown.len() == MAX_LEARNED_PER_TEXT || ids.len() > limit {
                return Err(UnknownWords(unknown));
            }
        }
        ids.extend_from_slice(&self.after);
        if unknown.is_empty() && ids.len() <= limit {
            Ok(ids)
        } else {
            Err(UnknownWords(unknown))
        }
    }

    /// Caches the tokens of unknown words.
    pub(crate) fn learn(&self, UnknownWords(words): UnknownWords<'_>, tokenizer: &Tokenizer) {
        for word in words {
            let Ok(tokens) = token_ids(tokenizer, word, None) else {
                continue;
            };
            let tokens: Box<[i64]> = tokens.into_iter().map(i64::from).collect();
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            // Cleared when full, so that rare words cannot displace frequent ones forever.
            if known.len() >= MAX_WORDS {
                known.clear();
            }
            known.insert(word.into(), tokens);
        }
    }
}

/// Cuts a text at spaces into pieces of at least `length` bytes. Their tokens in sequence are those of the text, if
/// there is a cache for its tokenizer.
pub(crate) fn pieces(text: &str, length: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    iter::from_fn(move || {
        let mut bytes = rest.bytes().skip(length);
        let end = bytes.position(|byte| SPACES.contains(&char::from(byte)));
        let (piece, after) = rest.split_at(end.map_or(rest.len(), |end| length + end));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Unknown words of a text, as many as are cached at once.
#[derive(Debug)]
pub(crate) struct UnknownWords<'a>(Vec<&'a str>);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn shipped() -> (Tokenizer, WordCache) {
        let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = crate_directory.join("../../models/sentiment/v1/tokenizer.json");
        let tokenizer = Tokenizer::from_file(path).unwrap();
        let post_processor = PostProcessor::new(tokenizer.get_post_processor().cloned()).unwrap();
        let words = WordCache::of(&tokenizer, &post_processor).unwrap();
        (tokenizer, words)
    }

    #[test]
    fn word_cache_knows_a_word_after_its_first_use() {
        let (tokenizer, words) = shipped();
        let unknown = words.lookup("A good\tfilm", 10).unwrap_err();
        assert_eq!(unknown.0, ["A", "good", "film"]);
        words.learn(unknown, &tokenizer);
        let ids = words.lookup("film good \r\n", 10).unwrap();
        let expected = tokenizer.encode_fast("film good", true).unwrap();
        let expected: Vec<i64> = expected.get_ids().iter().map(|id| (*id).into()).collect();
        assert_eq!(ids, expected);
        assert!(words.lookup("film good film", 4).is_err(), "too long");
    }

    #[test]
    fn word_cache_learns_few_words_per_text() {
        let (_, words) = shipped();
        let UnknownWords(unknown) = words.lookup("a b c d e f g h", 100).unwrap_err();
        assert_eq!(unknown.len(), MAX_LEARNED_PER_TEXT);
    }

    #[test]
    fn word_cache_is_bounded() {
        let (tokenizer, words) = shipped();
        for number in 0..=MAX_WORDS {
            let word = number.to_string();
            words.learn(UnknownWords(vec![&word]), &tokenizer);
        }
        assert_eq!(words.known.read().unwrap().len(), 1);
    }
}
