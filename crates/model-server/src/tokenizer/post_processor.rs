//! Joins the tokens of a text, or of a pair of texts, with the special tokens.

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokenizers::{
    Encoding, PostProcessor as _, PostProcessorWrapper, TruncationDirection, TruncationParams,
    TruncationStrategy, truncate_encodings,
};

use crate::{
    panic_message::panic_message,
    tokenizer::text_tokenizer::{TextError, TokenIds},
};

/// An ID that no vocabulary has, to find a text between its special tokens.
const MARK: u32 = u32::MAX;

/// The post-processor of a `tokenizer.json`, which adds special tokens; `None` if it adds none.
#[derive(Debug)]
pub(super) struct PostProcessor(Option<PostProcessorWrapper>);

impl PostProcessor {
    /// Checks that the post-processor keeps each text once. The library panics, for example, if a template names a token
    /// that the file does not list.
    pub(super) fn new(inner: Option<PostProcessorWrapper>) -> Result<Self, String> {
        let this = Self(inner);
        let texts = |joined: TokenIds| {
            let is_text = |id: &&i64| **id == i64::from(MARK);
            joined.ids.iter().filter(is_text).count()
        };
        let keeps_texts = || -> Result<bool, TextError> {
            let one = texts(this.join(vec![MARK], None)?) == 1;
            let two = || this.join(vec![MARK], Some(vec![MARK])).map(texts);
            Ok(one && (!this.makes_pairs() || two()? == 2))
        };
        let problem = match catch_unwind(AssertUnwindSafe(keeps_texts)) {
            Ok(Ok(true)) => return Ok(this),
            Ok(Ok(false)) => "it does not keep each text once".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic_message(panic.as_ref()),
        };
        Err(format!("its post-processor fails: {problem}"))
    }

    /// Returns the number of special tokens that a text gets, or a pair.
    pub(super) fn special(&self, pair: bool) -> usize {
        let processor = self.0.as_ref();
        processor.map_or(0, |processor| processor.added_tokens(pair))
    }

    /// Whether it separates a text from a second one. Without special tokens, a pair is one longer text: the
    /// library fills in such a template if the author of the file gave none for pairs.
    pub(super) fn makes_pairs(&self) -> bool {
        self.special(true) > 0
    }

    /// Returns the special tokens before and after each text; `None` if they belong to a second sentence.
    pub(super) fn around(&self) -> Option<(Vec<i64>, Vec<i64>)> {
        let TokenIds { mut ids, types, .. } = self.join(vec![MARK], None).ok()?;
        let at = ids.iter().position(|id| *id == i64::from(MARK))?;
        let after = ids.split_off(at + 1);
        ids.pop();
        (types.is_none() && !after.contains(&MARK.into())).then_some((ids, after))
    }

    /// Truncates a text so that it has `limit` tokens with the special ones.
    pub(super) fn truncate(
        &self,
        mut text: Vec<u32>,
        limit: usize,
        params: &TruncationParams,
    ) -> Result<TokenIds, TextError> {
        let room = limit - self.special(false);
        let surplus = text.len().saturating_sub(room);
        cut(&mut text, room, params.direction);
        let joined = self.join(text, None)?;
        Ok(TokenIds {
            truncated: surplus > 0,
            ..joined
        })
    }

    /// Truncates a pair, by the strategy of the file, so that it has `limit` tokens with the special ones.
    pub(super) fn truncate_pair(
        &self,
        text: Vec<u32>,
        pair: Vec<u32>,
        limit: usize,
        params: &TruncationParams,
    ) -> Result<TokenIds, TextError> {
        let room = limit - self.special(true);
        let length = text.len() + pair.len();
        if length <= room {
            return self.join(text, Some(pair));
        }
        let params = TruncationParams {
            max_length: room,
            stride: 0,
            ..params.clone()
        };
        let truncated = truncate_encodings(encoding(text, 0), Some(encoding(pair, 1)), &params);
        let (text, pair) = truncated.map_err(|_| match params.strategy {
            TruncationStrategy::OnlyFirst => TextError::PairTooLong,
            _ => TextError::TextTooLong,
        })?;
        let ids = |encoding: Encoding| encoding.get_ids().to_vec();
        let joined = self.join(ids(text), pair.map(ids))?;
        Ok(TokenIds {
            truncated: true,
            ..joined
        })
    }

    fn join(&self, text: Vec<u32>, pair: Option<Vec<u32>>) -> Result<TokenIds, TextError> {
        let text = encoding(text, 0);
        let pair = pair.map(|pair| encoding(pair, 1));
        let joined = match &self.0 {
            Some(processor) => processor.process(text, pair, true),
            None => Ok(text),
        };
        let joined = joined?;
        let types = joined.get_type_ids();
        let types = types.iter().any(|kind| *kind != 0).then_some(types);
        Ok(TokenIds {
            ids: joined.get_ids().iter().map(|id| (*id).into()).collect(),
            types: types.map(|types| types.iter().map(|kind| (*kind).into()).collect()),
            truncated: false,
        })
    }
}

/// Removes the tokens of a text beyond `length`, at its start if `direction` is left.
pub(super) fn cut(ids: &mut Vec<u32>, length: usize, direction: TruncationDirection) {
    match direction {
        TruncationDirection::Right => ids.truncate(length),
        TruncationDirection::Left => drop(ids.drain(..ids.len().saturating_sub(length))),
    }
}

/// Returns what the library calls the tokens of one text. `kind` is 0 for the first and 1 for the second of a pair.
fn encoding(ids: Vec<u32>, kind: u32) -> Encoding {
    let token = |id| (id, String::new(), (0, 0), None, kind);
    ids.into_iter().map(token).collect()
}
