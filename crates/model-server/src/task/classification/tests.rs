use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    backend::tensor::{Datatype, Elements, TensorSpec},
    task::{
        multi_label::logistic,
        single_label::softmax,
        text_task::{BuiltTask, TextTask},
        text_tasks,
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
    text_tasks::build(&config, &signature(&["logits"], logits))
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
        error
            .to_string()
            .contains("expected floats of shape [3, 3]"),
        "{error}"
    );
}

#[test]
fn logits_of_every_float_type_are_read() {
    let task = task(SINGLE, None).unwrap();
    let numbers = [0.5, -2.0, 1.0];
    for elements in [
        Elements::Bf16(numbers.map(half::bf16::from_f32).into()),
        Elements::Fp16(numbers.map(half::f16::from_f32).into()),
        Elements::Fp64(numbers.map(f64::from).into()),
    ] {
        let shape = vec![1, 3];
        let rows = task.decode(Tensor { shape, elements }, &[5]).unwrap();
        assert_eq!(rows, [numbers]);
    }
    let shape = vec![1, 3];
    let elements = Elements::Int64(vec![1, 2, 3]);
    let error = task.decode(Tensor { shape, elements }, &[5]).unwrap_err();
    assert!(error.to_string().contains("returned INT64"), "{error}");
}

#[test]
fn nan_and_infinite_logits_are_refused() {
    let task = task(SINGLE, None).unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let output = Tensor {
            shape: vec![2, 3],
            elements: Elements::Fp32(vec![0.5, 0.5, 0.5, 0.5, bad, 0.5]),
        };
        assert!(task.decode(output, &[5, 7]).is_err(), "{bad}");
    }
}

#[test]
fn output_without_one_row_for_each_text_is_refused() {
    for (shape, text) in [
        (vec![None, None, Some(3)], "[-1, -1, 3]"),
        (vec![None, Some(1), Some(3)], "[-1, 1, 3]"),
        (vec![Some(8)], "[8]"),
    ] {
        let mut signature = signature(&["logits"], None);
        signature.outputs[0].shape = shape;
        let config = ModelConfig::parse(SINGLE.as_bytes()).unwrap();
        let error = text_tasks::build(&config, &signature)
            .map(drop)
            .unwrap_err();
        let expected = format!(
            "its output \"logits\" has the shape {text}; expected [texts, labels], as a text classifier has"
        );
        assert_eq!(error.to_string(), expected);
    }
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
