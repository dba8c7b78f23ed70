//! Both engines run the shipped releases. Their logits equal those of Python's onnxruntime.

mod batches;
mod graphs;

use std::path::{Path, PathBuf};

use clap::Parser;
use serde_json::Value;

use crate::{
    backend::engine::{EngineKind, Parallelism},
    config::{ServeArguments, Settings},
    release::{Loaded, load},
    scheduler::inference_pool::ExecutionPlan,
    task::ModelTask,
    tokenizer::text_tokenizer::TokenIds,
};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn settings(release: &str, engine: EngineKind) -> Settings {
    let arguments = ["model-server", "--model-version", release];
    let mut settings = Arguments::parse_from(arguments).serve.resolve().unwrap();
    settings.model.root = repository().join("models");
    settings.engine.kind = engine;
    settings.engine.library = Some(repository().join("target/onnxruntime/libonnxruntime.so"));
    settings
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// Returns the logits of each golden text, in batches of up to `max_texts` texts.
fn logits(release: &str, engine: EngineKind, max_texts: usize) -> Vec<Vec<f32>> {
    let Loaded {
        plan: ExecutionPlan {
            task, mut policy, ..
        },
        mut engines,
        ..
    } = load(&settings(release, engine))
        .unwrap_or_else(|error| panic!("{error}; scripts/onnxruntime fetches the library"));
    let ModelTask::Text(model) = task else {
        panic!("the shipped releases read texts");
    };
    policy.max_texts = max_texts;
    let golden = read("models/sentiment/golden.jsonl");
    let texts: Vec<_> = golden
        .lines()
        .map(|arguments| {
            let golden: Value = serde_json::from_str(arguments).unwrap();
            model
                .tokenizer
                .tokenize(golden["input"]["text"].as_str().unwrap())
                .unwrap()
        })
        .collect();
    let mut waiting: Vec<usize> = (0..texts.len()).collect();
    let mut answers = vec![Vec::new(); texts.len()];
    while !waiting.is_empty() {
        let lengths = waiting
            .iter()
            .map(|at| model.computed_tokens(texts[*at].ids.len()));
        let lengths: Vec<usize> = lengths.collect();
        let chosen = policy.choose(&lengths);
        let batch: Vec<_> = chosen.iter().map(|at| &texts[waiting[*at]]).collect();
        let lengths: Vec<usize> = batch.iter().map(|text| text.ids.len()).collect();
        let mut rows = Vec::new();
        engines[0].enter(&mut |engine| {
            let inputs = model.pack(&batch);
            rows = model
                .run(engine, &inputs, &lengths, Parallelism::Single)
                .unwrap();
        });
        for (row, at) in rows.into_iter().zip(chosen) {
            answers[waiting[at]] = row;
        }
        waiting.retain(|at| answers[*at].is_empty());
    }
    answers
}

/// The largest accepted difference from Python's logits.
const TOLERANCE: f64 = 1e-3;

fn expect_logits_of_python(release: &str, engine: EngineKind, max_texts: usize) {
    let expected: Value =
        serde_json::from_str(&read("crates/model-server/tests/data/golden_logits.json")).unwrap();
    let expected = expected["logits"][release].as_array().unwrap();
    let answers = logits(release, engine, max_texts);
    assert_eq!(answers.len(), expected.len());
    for (at, (answer, expected)) in answers.iter().zip(expected).enumerate() {
        let expected: Vec<f64> = expected
            .as_array()
            .unwrap()
            .iter()
            .map(|number| number.as_f64().unwrap())
            .collect();
        assert_eq!(answer.len(), expected.len());
        for (number, expected) in answer.iter().zip(&expected) {
            let difference = (f64::from(*number) - expected).abs();
            assert!(
                difference < TOLERANCE,
                "text {at}: {answer:?}, {expected:?}"
            );
        }
        assert_eq!(
            answer[0] > answer[1],
            expected[0] > expected[1],
            "text {at} has another label: {answer:?}, {expected:?}"
        );
    }
}

#[test]
fn rten_logits_match_python_alone_and_in_batches() {
    for release in ["v1", "v2"] {
        for max_texts in [1, 16] {
            expect_logits_of_python(release, EngineKind::Rten, max_texts);
        }
    }
}

#[test]
fn onnxruntime_logits_match_python_alone_and_in_batches() {
    for release in ["v1", "v2"] {
        for max_texts in [1, 16] {
            expect_logits_of_python(release, EngineKind::Onnxruntime, max_texts);
        }
    }
}

#[test]
fn error_names_missing_library() {
    let mut settings = settings("v1", EngineKind::Onnxruntime);
    settings.engine.library = Some("/nowhere/libonnxruntime.so".into());
    let error = load(&settings).map(drop).unwrap_err().to_string();
    assert!(error.contains("/nowhere/libonnxruntime.so"), "{error}");
    assert!(error.contains("No such file"), "{error}");
}

#[test]
fn error_names_invalid_library() {
    let mut settings = settings("v1", EngineKind::Onnxruntime);
    let path = repository().join("models/sentiment/v1/config.json");
    settings.engine.library = Some(path.clone());
    let error = load(&settings).map(drop).unwrap_err().to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn dynamic_quantization_depends_on_the_batch() {
    for engine in [EngineKind::Rten, EngineKind::Onnxruntime] {
        let mut settings = settings("1", engine);
        settings.model.root = repository().join("crates/model-server/tests/data/models");
        settings.model.name = "quantizing".to_owned();
        let Loaded {
            plan, mut engines, ..
        } = load(&settings).unwrap();
        // For this reason the release is not batched.
        assert_eq!(plan.policy.max_texts, 1);
        let ModelTask::Text(model) = plan.task else {
            panic!("it reads texts");
        };
        let golden = read("models/sentiment/golden.jsonl");
        let texts: Vec<_> = golden
            .lines()
            .map(|arguments| {
                let golden: Value = serde_json::from_str(arguments).unwrap();
                let text = golden["input"]["text"].as_str().unwrap();
                model.tokenizer.tokenize(text).unwrap()
            })
            .collect();
        let mut logits = |texts: &[&TokenIds]| {
            let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
            let engine = engines[0].as_mut();
            let rows = model.run(engine, &model.pack(texts), &lengths, Parallelism::Single);
            rows.unwrap()
        };
        let differs = texts.windows(2).any(|pair| {
            let max_texts = logits(&[&pair[0], &pair[1]]);
            let alone = logits(&[&pair[0]]);
            max_texts[0]
                .iter()
                .zip(&alone[0])
                .any(|(one, other)| (one - other).abs() > 1e-4)
        });
        assert!(differs, "{engine:?}");
    }
}
