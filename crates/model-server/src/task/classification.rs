//! What the classifiers share.

#[cfg(test)]
mod tests;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    backend::{
        engine::GraphError,
        tensor::{Signature, Tensor},
    },
    task::{
        model_config::{Labels, ModelConfig},
        text_task::{Answer, TextOutput, TextTaskError, TextValues, UnexpectedOutput},
    },
};

/// The name of the output with the logits, if a graph has several outputs.
const LOGITS: &str = "logits";

/// From finite logits to the probability of each label, from 0 to 1.
type Probabilities = fn(&[f32]) -> Vec<f32>;

/// The labels of a classifier, and where its graph returns their logits.
#[derive(Debug)]
pub(super) struct Classes {
    labels: Labels,
    /// The index of the output with the logits.
    pub(super) output: usize,
}

/// The most likely label of one text.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LabelAnswer {
    /// The label with the highest score.
    #[schema(example = "positive")]
    #[serde(rename = "prediction")]
    label: String,
    /// Its probability, from 0 to 1: by softmax for a single-label model, by the logistic function for a
    /// multi-label model.
    confidence: f32,
    /// The `top_k` most likely labels, if requested. Those of a multi-label model do not add up to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    scores: Option<Vec<LabelScore>>,
}

/// A label and its probability.
#[derive(Debug, Serialize, ToSchema)]
struct LabelScore {
    /// The name of the label.
    label: String,
    /// The probability, from 0 to 1.
    score: f32,
}

impl Answer for LabelAnswer {
    fn label(&self) -> Option<&str> {
        Some(&self.label)
    }
}

/// Returns how many labels a classifier with this graph has.
pub(super) fn count_labels(
    config: &ModelConfig,
    signature: &Signature,
) -> Result<usize, GraphError> {
    let (_, logits) = logits_of(signature)?;
    Ok(config.labels(logits).len())
}

/// Returns the index of the output with the logits, and the number of logits for each text if the graph
/// declares it.
fn logits_of(signature: &Signature) -> Result<(usize, Option<usize>), GraphError> {
    let outputs = &signature.outputs;
    let named = outputs.iter().position(|output| output.name == LOGITS);
    let place = match (named, outputs.len()) {
        (Some(place), _) => place,
        (None, 1) => 0,
        (None, _) => {
            let all = outputs.iter().map(|output| output.name.clone());
            return Err(GraphError::Outputs(all.collect()));
        }
    };
    let output = &outputs[place];
    match output.shape[..] {
        // The graph does not declare the shape.
        [] => Ok((place, None)),
        [_, labels] => Ok((place, labels)),
        _ => Err(GraphError::OutputShape {
            name: output.name.clone(),
            shape: output.shape_text(),
        }),
    }
}

impl Classes {
    /// Matches the labels with a graph. Fails if there are less than `fewest`.
    pub(super) fn new(
        config: &ModelConfig,
        signature: &Signature,
        fewest: usize,
    ) -> Result<Self, TextTaskError> {
        let (output, logits) = logits_of(signature)?;
        let labels = config.labels(logits).at_least(fewest)?;
        Ok(Self { labels, output })
    }

    /// The name of a label.
    pub(super) fn name(&self, class: usize) -> String {
        self.labels.get(class).unwrap_or_default().to_owned()
    }

    /// Returns the logits of each text.
    pub(super) fn decode(
        &self,
        output: Tensor,
        texts: usize,
    ) -> Result<Vec<Vec<f32>>, UnexpectedOutput> {
        let labels = self.labels.len();
        let Tensor { shape, elements } = output;
        let datatype = elements.datatype();
        let rows: Vec<Vec<f32>> = match elements.into_fp32() {
            Ok(logits) if shape == [texts, labels] => {
                logits.chunks(labels).map(<[f32]>::to_vec).collect()
            }
            _ => {
                return Err(UnexpectedOutput {
                    given: format!("{datatype} of shape {shape:?} for {texts} texts"),
                    expected: format!(
                        "floats of shape [{texts}, {labels}], because config.json has {labels} labels"
                    ),
                });
            }
        };
        // Checked by the worker, because only a worker runs the self-test that shows whether the engine is broken.
        rows.iter().try_for_each(|logits| expect_finite(logits))?;
        Ok(rows)
    }

    /// Returns the most likely label, and the probability of each label.
    pub(super) fn answer(
        &self,
        logits: &[f32],
        probabilities: Probabilities,
        top_k: Option<usize>,
    ) -> Result<(LabelAnswer, Vec<f32>), UnexpectedOutput> {
        expect_finite(logits)?;
        let probabilities = probabilities(logits);
        let best = largest(logits);
        let score = |class| LabelScore {
            label: self.name(class),
            score: probabilities[class],
        };
        let scores = top_k.map(|top_k| {
            let classes = descending(logits).into_iter().take(top_k);
            classes.map(score).collect()
        });
        let answer = LabelAnswer {
            label: self.name(best),
            confidence: probabilities[best],
            scores,
        };
        Ok((answer, probabilities))
    }

    /// Returns the most likely label of each text, its probability, and all logits.
    pub(super) fn outputs(
        &self,
        rows: &[Vec<f32>],
        probabilities: Probabilities,
    ) -> Result<Vec<TextOutput>, UnexpectedOutput> {
        let (mut labels, mut confidences) = (Vec::new(), Vec::new());
        for logits in rows {
            let (
                LabelAnswer {
                    label, confidence, ..
                },
                _,
            ) = self.answer(logits, probabilities, None)?;
            labels.push(label);
            confidences.push(confidence);
        }
        let output = |name, columns, values| TextOutput {
            name,
            columns,
            values,
        };
        Ok(vec![
            output("label", None, TextValues::Strings(labels)),
            output("confidence", None, TextValues::Numbers(confidences)),
            output(
                LOGITS,
                Some(self.labels.len()),
                TextValues::Numbers(rows.concat()),
            ),
        ])
    }
}

fn expect_finite(logits: &[f32]) -> Result<(), UnexpectedOutput> {
    if !logits.is_empty() && logits.iter().all(|logit| logit.is_finite()) {
        return Ok(());
    }
    Err(UnexpectedOutput {
        given: format!("{logits:?}"),
        expected: "one finite number for each label".to_owned(),
    })
}

/// Returns the index of the largest logit, the first one of equal ones. Probabilities are less exact: two of
/// them may round to 1.
fn largest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (place, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = place;
        }
    }
    best
}

/// Returns the indices of all logits, largest first; equal ones keep their order.
fn descending(logits: &[f32]) -> Vec<usize> {
    let mut places: Vec<usize> = (0..logits.len()).collect();
    places.sort_by(|one, other| {
        let order = logits[*other].partial_cmp(&logits[*one]);
        order.unwrap_or(std::cmp::Ordering::Equal)
    });
    places
}
