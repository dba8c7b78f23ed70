use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::warn;

use crate::{
    backend::engine::{Engine, Parallelism},
    task::{WARM_UP_TEXT, text_model::TextModel},
    tokenizer::text_tokenizer::TokenIds,
};

/// Logits differ if they are further apart, relative to the largest one or to 1. The rounding
/// of a batch depends on its size, most of all with FP16 and quantized activations.
const TOLERANCE: f32 = 1e-2;

/// Which texts may share a forward pass without changing each other's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Texts of any length.
    AnyLength,
    /// Texts of equal length, because padding changes an answer.
    EqualLength,
    /// None: each text runs alone.
    Nothing,
}

impl TextModel {
    /// Compares answers to a text alone and in batches.
    ///
    /// The files do not tell everything. A graph may fail with several texts although it declares any number. It may
    /// read the last position although `config.json` names a padding token, or count positions from the left end
    /// although the tokenizer pads there.
    pub(super) fn measure_sharing(&self, engine: &mut dyn Engine) -> Sharing {
        let Ok(long) = self.tokenizer.tokenize(WARM_UP_TEXT) else {
            return Sharing::Nothing;
        };
        if self.fixed_texts() == Some(1) {
            return Sharing::Nothing;
        }
        let mut mirrored = long.clone();
        mirrored.ids.reverse();
        let mut short = long.clone();
        short.ids.drain(long.ids.len() / 4..long.ids.len() * 3 / 4);
        short.types = short.types.map(|types| types[..short.ids.len()].to_vec());
        let mut rows = |texts: &[&TokenIds]| {
            // A graph that panics with several texts must not stop the server.
            let rows = catch_unwind(AssertUnwindSafe(|| self.rows(engine, texts)));
            rows.unwrap_or_default()
        };
        let [alone, mirrored_alone, short_alone] =
            [&long, &mirrored, &short].map(|text| rows(&[text]).concat());
        if !similar(&rows(&[&long, &mirrored]), &[&alone, &mirrored_alone]) {
            warn!(
                "each text runs alone: the model fails with two texts in a forward pass, or gives them other answers than alone; export the graph again for any number of texts to make it faster"
            );
            return Sharing::Nothing;
        }
        if !self.can_pad() {
            return Sharing::EqualLength;
        }
        if !similar(&rows(&[&long, &short]), &[&alone, &short_alone]) {
            if self.has_fixed_length() {
                // The graph computes texts of all lengths alike, so the scheduler cannot tell equal lengths.
                warn!(
                    "each text runs alone: a text of another length in its forward pass changes the model's answer; export the graph again without a fixed length to make it faster"
                );
                return Sharing::Nothing;
            }
            warn!(
                "only texts of equal length share a forward pass: padding changes the model's answer; check attention_mask in the graph and pad_token_id in config.json to make it faster"
            );
            return Sharing::EqualLength;
        }
        Sharing::AnyLength
    }

    /// Returns the row of each text, or nothing if the forward pass fails.
    fn rows(&self, engine: &mut dyn Engine, texts: &[&TokenIds]) -> Vec<Vec<f32>> {
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let rows = self.run(engine, &self.pack(texts), &lengths, Parallelism::All);
        rows.unwrap_or_default()
    }
}

fn similar(rows: &[Vec<f32>], expected: &[&Vec<f32>]) -> bool {
    let similar = |(row, expected): (&Vec<f32>, &&Vec<f32>)| {
        let largest = expected.iter().fold(1.0_f32, |all, it| all.max(it.abs()));
        let mut pairs = row.iter().zip(expected.iter());
        row.len() == expected.len()
            && pairs.all(|(one, other)| (one - other).abs() <= TOLERANCE * largest)
    };
    rows.len() == expected.len() && rows.iter().zip(expected).all(similar)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        backend::{
            engine::{EngineError, EngineTask},
            tensor::{Elements, Tensor},
        },
        task::text_model::tests::text_model,
    };

    /// A model that counts the tokens of the first text, and returns this number for each text.
    struct ReadsFirstText;

    impl Engine for ReadsFirstText {
        fn run(
            &mut self,
            inputs: &[Tensor],
            _: &[usize],
            _: Parallelism,
        ) -> Result<Vec<Tensor>, EngineError> {
            let [_, mask, ..] = inputs else {
                panic!("no mask")
            };
            let Elements::Int64(numbers) = &mask.elements else {
                panic!("{mask:?}")
            };
            let tokens = numbers[..mask.shape[1]].iter().filter(|it| **it == 1);
            let tokens = [tokens.count() as f32, 0.0];
            Ok(vec![Tensor {
                shape: vec![mask.shape[0], 2],
                elements: Elements::Fp32(tokens.repeat(mask.shape[0])),
            }])
        }

        fn enter(&mut self, work: EngineTask<'_>) {
            work(self);
        }
    }

    #[test]
    fn texts_of_fixed_length_share_nothing_if_other_lengths_change_answers() {
        for (tokens, expected) in [(None, Sharing::EqualLength), (Some(24), Sharing::Nothing)] {
            let model = text_model("null", r#"{"model_type": "bert"}"#, [None, tokens]);
            let sharing = model.measure_sharing(&mut ReadsFirstText);
            assert_eq!(sharing, expected, "{tokens:?}");
        }
    }
}
