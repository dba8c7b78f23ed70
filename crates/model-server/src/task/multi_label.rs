use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    backend::tensor::{Signature, Tensor},
    task::{
        classification::{Classes, LabelAnswer},
        model_config::ModelConfig,
        text_task::{
            Answer, BuiltTask, Prediction, TextOutput, TextTask, TextTaskKind, UnexpectedOutput,
            schema_of,
        },
    },
};

pub(super) const KIND: TextTaskKind = TextTaskKind {
    problem_type: "multi_label_classification",
    build: MultiLabel::build,
    schema: schema_of::<MultiLabelAnswer>,
};

/// A label applies if its probability is at least this.
const LIKELY: f32 = 0.5;

/// Each label applies or not, with its own probability: the probabilities do not add up to 1.
#[derive(Debug)]
struct MultiLabel(Classes);

/// The labels of one text.
#[derive(Debug, Serialize, ToSchema)]
struct MultiLabelAnswer {
    #[serde(flatten)]
    best: LabelAnswer,
    /// All labels with a probability of at least 0.5.
    labels: Vec<String>,
}

impl Answer for MultiLabelAnswer {
    fn label(&self) -> Option<&str> {
        self.best.label()
    }
}

impl MultiLabel {
    fn build(config: &ModelConfig, signature: &Signature) -> BuiltTask {
        Ok(Box::new(Self(Classes::new(config, signature, 1)?)))
    }
}

impl TextTask for MultiLabel {
    fn output(&self) -> usize {
        self.0.output
    }

    fn decode(&self, output: Tensor, lengths: &[usize]) -> Result<Vec<Vec<f32>>, UnexpectedOutput> {
        self.0.decode(output, lengths.len())
    }

    fn answer(&self, row: &[f32], top_k: Option<usize>) -> Result<Prediction, UnexpectedOutput> {
        let (best, probabilities) = self.0.answer(row, logistic, top_k)?;
        let likely = (0..row.len()).filter(|class| probabilities[*class] >= LIKELY);
        let labels = likely.map(|class| self.0.name(class)).collect();
        Ok(Prediction(Box::new(MultiLabelAnswer { best, labels })))
    }

    fn outputs(&self, rows: &[Vec<f32>]) -> Result<Vec<TextOutput>, UnexpectedOutput> {
        self.0.outputs(rows, logistic)
    }
}

/// `1 / (1 + exp(-x))` of each logit; if the exponential overflows to infinity, the result is 0.
pub(super) fn logistic(logits: &[f32]) -> Vec<f32> {
    logits
        .iter()
        .map(|logit| 1.0 / (1.0 + (-logit).exp()))
        .collect()
}
