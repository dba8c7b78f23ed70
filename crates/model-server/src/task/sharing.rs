use std::panic::{AssertUnwindSafe, catch_unwind};

use tracing::warn;

use crate::{
    backend::engine::{Engine, Parallelism},
    task::{WARM_UP_TEXT, text_model::TextModel},
    tokenizer::text_tokenizer::TokenIds,
};

/// Logits differ if they are further apart, relative to the largest one or to 1. Batches of other sizes round otherwise,
/// most of all with FP16 and quantized activations.
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
                "each text runs alone: the model answers otherwise, or fails, if texts share a forward pass"
            );
            return Sharing::Nothing;
        }
        if !self.can_pad() {
            return Sharing::EqualLength;
        }
        if !similar(&rows(&[&long, &short]), &[&alone, &short_alone]) {
            warn!(
                "only texts of equal length share a forward pass: padding changes the model's answer"
            );
            return Sharing::EqualLength;
        }
        Sharing::AnyLength
    }

    /// Returns the row of each text, or nothing if the forward pass fails.
    fn rows(&self, engine: &mut dyn Engine, texts: &[&TokenIds]) -> Vec<Vec<f32>> {
        let outputs = engine.run(&self.pack(texts), &[self.task.output()], Parallelism::All);
        let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
        let output = outputs.ok().and_then(|mut outputs| outputs.pop());
        let rows = output.and_then(|output| self.decode(output, &lengths).ok());
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
