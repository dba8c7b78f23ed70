use crate::{
    backend::tensor::{Signature, Tensor},
    task::{
        classification::{Classes, LabelAnswer},
        model_config::ModelConfig,
        text_task::{
            BuiltTask, Prediction, TextOutput, TextTask, TextTaskKind, UnexpectedOutput, schema_of,
        },
    },
};

pub(super) const KIND: TextTaskKind = TextTaskKind {
    problem_type: "single_label_classification",
    build: SingleLabel::build,
    schema: schema_of::<LabelAnswer>,
};

/// Exactly one label applies: the probabilities add up to 1.
#[derive(Debug)]
struct SingleLabel(Classes);

impl SingleLabel {
    fn build(config: &ModelConfig, signature: &Signature) -> BuiltTask {
        Ok(Box::new(Self(Classes::new(config, signature, 2)?)))
    }
}

impl TextTask for SingleLabel {
    fn output(&self) -> usize {
        self.0.output
    }

    fn decode(&self, output: Tensor, lengths: &[usize]) -> Result<Vec<Vec<f32>>, UnexpectedOutput> {
        self.0.decode(output, lengths.len())
    }

    fn answer(&self, row: &[f32], top_k: Option<usize>) -> Result<Prediction, UnexpectedOutput> {
        let (answer, _) = self.0.answer(row, softmax, top_k)?;
        Ok(Prediction(Box::new(answer)))
    }

    fn outputs(&self, rows: &[Vec<f32>]) -> Result<Vec<TextOutput>, UnexpectedOutput> {
        self.0.outputs(rows, softmax)
    }
}

/// `exp(x_i - max) / Σ exp(x_j - max)`; subtracting the largest logit prevents overflow.
pub(super) fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut powers: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    for power in &mut powers {
        *power /= sum;
    }
    powers
}
