//! What the classifiers share.

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    backend::{
        engine::GraphError,
        tensor::{Elements, Signature, Tensor},
    },
    task::{
        model_config::{Labels, ModelConfig},
        multi_label, single_label,
        text_task::{
            Answer, TextOutput, TextTaskError, TextTaskKind, TextValues, UnexpectedOutput,
        },
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

/// Returns the task of a classifier whose `config.json` has no `problem_type`, as transformers' pipeline chooses it:
/// with one label, softmax would always return 1.
pub(super) fn default_kind(
    config: &ModelConfig,
    signature: &Signature,
) -> Result<&'static TextTaskKind, GraphError> {
    let (_, logits) = logits_of(signature)?;
    Ok(match config.labels(logits).len() {
        1 => &multi_label::KIND,
        _ => &single_label::KIND,
    })
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
    Ok((place, outputs[place].shape.last().copied().flatten()))
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
        match (output.elements, output.shape.as_slice()) {
            (Elements::Fp32(logits), &[rows, columns]) if rows == texts && columns == labels => {
                Ok(logits.chunks(labels).map(<[f32]>::to_vec).collect())
            }
            (other, shape) => Err(UnexpectedOutput {
                given: format!("{} of shape {shape:?} for {texts} texts", other.datatype()),
                expected: format!(
                    "FP32 of shape [{texts}, {labels}], because config.json has {labels} labels"
                ),
            }),
        }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        backend::tensor::{Datatype, TensorSpec},
        task::{
            multi_label::logistic,
            single_label::softmax,
            text_task::{self, BuiltTask, TextTask},
        },
    };

    const PROBABILITIES: [Probabilities; 2] = [softmax, logistic];

    fn signature(outputs: &[&str], logits: Option<usize>) -> Signature {
        let spec = |name: &&str| TensorSpec {
            name: (*name).to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![None, logits],
        };
        Signature {
            inputs: Vec::new(),
            outputs: outputs.iter().map(spec).collect(),
        }
    }

    fn task(config: &str, logits: Option<usize>) -> BuiltTask {
        let config = ModelConfig::parse(config.as_bytes())?;
        text_task::build(&config, &signature(&["logits"], logits))
    }

    fn answer(task: &dyn TextTask, logits: &[f32], top_k: Option<usize>) -> Value {
        serde_json::to_value(task.answer(logits, top_k).unwrap()).unwrap()
    }

    const SINGLE: &str = r#"{"id2label": {"0": "a", "1": "b", "2": "c"}}"#;
    const MULTI: &str = r#"{"id2label": {"0": "a", "1": "b", "2": "c"},
        "problem_type": "multi_label_classification"}"#;

    #[test]
    fn single_label_answer_holds_best_label_and_scores() {
        let task = task(SINGLE, Some(3)).unwrap();
        assert_eq!(
            answer(task.as_ref(), &[0.0, 400.0, 200.0], Some(2)),
            json!({"prediction": "b", "confidence": 1.0, "scores": [
                {"label": "b", "score": 1.0}, {"label": "c", "score": 0.0},
            ]})
        );
        let prediction = task.answer(&[0.0, 400.0, 200.0], None).unwrap();
        assert_eq!(prediction.0.label(), Some("b"));
    }

    #[test]
    fn multi_label_answer_holds_every_likely_label() {
        let task = task(MULTI, Some(3)).unwrap();
        assert_eq!(
            answer(task.as_ref(), &[0.0, 200.0, -200.0], None),
            json!({"prediction": "b", "confidence": 1.0, "labels": ["a", "b"]})
        );
        let none = answer(task.as_ref(), &[-200.0, -200.0, -200.0], None);
        assert_eq!(
            none,
            json!({"prediction": "a", "confidence": 0.0, "labels": []})
        );
        assert_eq!(
            task.answer(&[0.0, 1.0, 2.0], None).unwrap().0.label(),
            Some("c")
        );
    }

    #[test]
    fn classifier_outputs_have_one_entry_for_each_row() {
        let numbers = |numbers: &[f32]| TextValues::Numbers(numbers.to_vec());
        for config in [SINGLE, MULTI] {
            let task = task(config, Some(3)).unwrap();
            let rows = vec![vec![0.0, 200.0, -200.0], vec![200.0, 0.0, -200.0]];
            let outputs = task.outputs(&rows).unwrap();
            let labels = ["b", "a"].map(str::to_owned).to_vec();
            assert_eq!(outputs[0].values, TextValues::Strings(labels));
            assert_eq!(outputs[1].values, numbers(&[1.0, 1.0]));
            let logits = [0.0, 200.0, -200.0, 200.0, 0.0, -200.0];
            assert_eq!((outputs[2].name, outputs[2].columns), ("logits", Some(3)));
            assert_eq!(outputs[2].values, numbers(&logits));
        }
    }

    #[test]
    fn output_of_wrong_shape_is_refused() {
        let task = task(SINGLE, None).unwrap();
        let tensor = |shape: [usize; 2]| Tensor {
            shape: shape.to_vec(),
            elements: Elements::Fp32(vec![0.5; 6]),
        };
        let rows = task.decode(tensor([2, 3]), &[5, 7]).unwrap();
        assert_eq!(rows, [[0.5; 3], [0.5; 3]]);
        let error = task.decode(tensor([3, 2]), &[5, 7, 9]).unwrap_err();
        assert!(
            error.to_string().contains("expected FP32 of shape [3, 3]"),
            "{error}"
        );
    }

    #[test]
    fn logits_are_the_output_of_that_name_or_the_only_one() {
        let place = |outputs: &[&str]| logits_of(&signature(outputs, None)).map(|(place, _)| place);
        assert_eq!(place(&["hidden", "logits"]).unwrap(), 1);
        assert_eq!(place(&["scores"]).unwrap(), 0);
        let error = place(&["hidden", "scores"]).unwrap_err();
        assert!(error.to_string().contains("hidden"), "{error}");
    }

    #[test]
    fn missing_problem_type_follows_the_number_of_labels() {
        let labels = |count: usize| {
            let task = task("{}", Some(count)).unwrap();
            answer(task.as_ref(), &vec![0.0; count], None)["labels"].clone()
        };
        assert_eq!(labels(1), json!(["LABEL_0"]));
        assert_eq!(labels(2), Value::Null);
        let spam = task(r#"{"id2label": {"0": "spam"}}"#, None).unwrap();
        assert_eq!(
            answer(spam.as_ref(), &[1.0], None)["labels"],
            json!(["spam"])
        );
    }

    #[test]
    fn single_label_classifier_needs_two_labels() {
        let config = r#"{"id2label": {"0": "a"}, "problem_type": "single_label_classification"}"#;
        let error = task(config, None).map(drop).unwrap_err();
        assert!(matches!(error, TextTaskError::Config(_)), "{error}");
        assert!(error.to_string().contains("at least two labels"), "{error}");
    }

    #[test]
    fn equal_logits_have_equal_probabilities_and_the_first_wins() {
        let logits = [0.5; 4];
        assert_eq!(largest(&logits), 0);
        assert_eq!(descending(&logits), [0, 1, 2, 3]);
        assert_eq!(softmax(&logits), [0.25; 4]);
    }

    #[test]
    fn softmax_of_two_logits_equals_the_logistic_function() {
        let single = softmax(&[-1.0, 1.0]);
        let multi = logistic(&[2.0]);
        assert!((single[1] - multi[0]).abs() < 1e-6);
    }

    #[test]
    fn multi_label_probabilities_are_independent() {
        let probabilities = logistic(&[0.0, 20.0, -20.0]);
        assert!((probabilities[0] - 0.5).abs() < 1e-6);
        assert!(probabilities[1] > 0.999 && probabilities[2] < 0.001);
    }

    #[test]
    fn non_finite_logits_are_refused() {
        for logits in [
            &[][..],
            &[f32::NAN, 1.0],
            &[1.0, f32::INFINITY],
            &[f32::NEG_INFINITY, 0.0],
        ] {
            for config in [SINGLE, MULTI] {
                let task = task(config, None).unwrap();
                assert!(task.answer(logits, None).is_err(), "{logits:?}");
                assert!(task.outputs(&[logits.to_vec()]).is_err(), "{logits:?}");
            }
        }
    }

    /// Any finite number, including the largest and the smallest.
    fn finite() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<f32>().prop_filter("finite", |number| number.is_finite()),
            Just(f32::MAX),
            Just(f32::MIN),
            -20.0_f32..20.0,
        ]
    }

    proptest! {
        #[test]
        fn finite_logits_have_valid_probabilities(logits in prop::collection::vec(finite(), 1..20)) {
            for probabilities in PROBABILITIES {
                prop_assert!(probabilities(&logits).iter().all(|it| (0.0..=1.0).contains(it)));
            }
            let sum: f32 = softmax(&logits).iter().sum();
            prop_assert!((sum - 1.0).abs() < 1e-5, "{sum}");
        }

        #[test]
        fn descending_orders_by_logit_and_probability(
            logits in prop::collection::vec(finite(), 1..20),
        ) {
            let order = descending(&logits);
            prop_assert_eq!(order[0], largest(&logits));
            for probabilities in PROBABILITIES {
                let probabilities = probabilities(&logits);
                for pair in order.windows(2) {
                    prop_assert!(probabilities[pair[0]] >= probabilities[pair[1]]);
                }
            }
        }
    }
}
