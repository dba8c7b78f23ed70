use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock},
};

use tokenizers::pipeline::{
    EncodeOptions, Override, PipelineModel, PipelineNormalizer, PipelinePreTokenizer,
    PipelineTokenizer,
};

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
    pub(crate) fn of(tokenizer: &PipelineTokenizer) -> Option<Self> {
        let by_word = matches!(tokenizer.get_normalizers(), [PipelineNormalizer::Bert(_)])
            && matches!(tokenizer.get_pre_tokenizer(), PipelinePreTokenizer::Bert(_))
            && matches!(tokenizer.get_model(), PipelineModel::WordPiece(_));
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        let spaced = |token: &String| token.contains(char::is_whitespace);
        if !by_word || added.values().any(|token| spaced(&token.content)) {
            return None;
        }
        let (before, after) = special_tokens_around(tokenizer)?;
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
        for word in text
            .split([' ', '\t', '\n', '\r'])
            .filter(|word| !word.is_empty())
        {
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
    pub(crate) fn learn(
        &self,
        UnknownWords(words): UnknownWords<'_>,
        tokenizer: &PipelineTokenizer,
    ) {
        for word in words {
            let Some(tokens) = tokens(tokenizer, word, false) else {
                continue;
            };
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            // Cleared when full, so that rare words cannot displace frequent ones forever.
            if known.len() >= MAX_WORDS {
                known.clear();
            }
            known.insert(word.into(), tokens.into());
        }
    }
}

/// Unknown words of a text, as many as are cached at once.
#[derive(Debug)]
pub(crate) struct UnknownWords<'a>(Vec<&'a str>);

/// Returns the special tokens before and after each text; `None` if the tokenizer does anything else.
fn special_tokens_around(tokenizer: &PipelineTokenizer) -> Option<(Vec<i64>, Vec<i64>)> {
    let inner = tokens(tokenizer, "a", false)?;
    let whole = tokens(tokenizer, "a", true)?;
    let mut places =
        (0..=whole.len().checked_sub(inner.len())?).filter(|at| whole[*at..].starts_with(&inner));
    let (at, ambiguous) = (places.next()?, places.next().is_some());
    let (before, rest) = whole.split_at(at);
    (!ambiguous && !inner.is_empty()).then(|| (before.to_vec(), rest[inner.len()..].to_vec()))
}

/// Tokenizes `text`; `None` if the tokenizer reports a second sentence.
fn tokens(tokenizer: &PipelineTokenizer, text: &str, framed: bool) -> Option<Vec<i64>> {
    let options = EncodeOptions {
        add_special_tokens: framed,
        padding: Override::Off,
        truncation: Override::Off,
        ..EncodeOptions::default()
    };
    let encoding = tokenizer.encode(text, &options).wait().ok()?.pop()?;
    let types = encoding.type_ids();
    let first = types.is_none_or(|types| types.iter().all(|kind| *kind == 0));
    let ids = encoding.ids().iter().map(|token| token.id().into());
    first.then(|| ids.collect())
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::LazyLock};

    use proptest::prelude::*;
    use tokenizers::{canonicalize_str, from_json};

    use super::*;

    static SHIPPED: LazyLock<PipelineTokenizer> = LazyLock::new(|| {
        let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = crate_directory.join("../../models/sentiment/v1/tokenizer.json");
        let text = std::fs::read_to_string(path).unwrap();
        from_json(&canonicalize_str(&text).unwrap()).unwrap()
    });

    /// Caches all words of `text`, and returns its tokens.
    fn learned(words: &WordCache, text: &str, tokenizer: &PipelineTokenizer) -> Option<Vec<i64>> {
        for _ in 0..=text.len() {
            match words.lookup(text, usize::MAX) {
                Ok(ids) => return Some(ids),
                Err(UnknownWords(unknown)) if unknown.is_empty() => return None,
                Err(unknown) => words.learn(unknown, tokenizer),
            }
        }
        None
    }

    #[test]
    fn word_cache_knows_a_word_after_its_first_use() {
        let tokenizer = &*SHIPPED;
        let words = WordCache::of(tokenizer).unwrap();
        let unknown = words.lookup("A good\tfilm", 10).unwrap_err();
        assert_eq!(unknown.0, ["A", "good", "film"]);
        words.learn(unknown, tokenizer);
        let ids = words.lookup("film good \r\n", 10).unwrap();
        assert_eq!(Some(ids), tokens(tokenizer, "film good", true));
        assert!(words.lookup("film good film", 4).is_err(), "too long");
    }

    #[test]
    fn word_cache_learns_few_words_per_text() {
        let tokenizer = &*SHIPPED;
        let words = WordCache::of(tokenizer).unwrap();
        let UnknownWords(unknown) = words.lookup("a b c d e f g h", 100).unwrap_err();
        assert_eq!(unknown.len(), MAX_LEARNED_PER_TEXT);
    }

    #[test]
    fn word_cache_is_bounded() {
        let tokenizer = &*SHIPPED;
        let words = WordCache::of(tokenizer).unwrap();
        for number in 0..=MAX_WORDS {
            let word = number.to_string();
            words.learn(UnknownWords(vec![&word]), tokenizer);
        }
        assert_eq!(words.known.read().unwrap().len(), 1);
    }

    proptest! {
        #[test]
        fn cached_tokens_match_the_tokenizer(
            text in prop::collection::vec(
                prop_oneof![
                    "[a-zA-Z]{1,9}",
                    "[a-z0-9.,!?'#@-]{1,9}",
                    Just("[MASK]".to_owned()), Just("x[SEP]".to_owned()), Just("##s".to_owned()),
                    // Control characters, all kinds of spaces, accents before and after, and Chinese.
                    "[a\u{0}\u{1}\u{b}\u{c}\u{85}\u{a0}\u{2003}\u{3000}\u{301}\u{308}éÉßİıΣσς中文語가👍]{1,6}",
                    "\\PC{1,8}",
                ],
                1..8,
            ).prop_map(|words| words.join(" ")),
        ) {
            let tokenizer = &*SHIPPED;
            let words = WordCache::of(tokenizer).unwrap();
            if let Some(ids) = learned(&words, &text, tokenizer) {
                prop_assert_eq!(Some(ids), tokens(tokenizer, &text, true));
            }
        }
    }
}
