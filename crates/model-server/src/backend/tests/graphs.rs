//! Graphs of fixed lengths, of other datatypes, and those that are refused at the start.

use std::fs;

use super::{
    batches::{release, settings_of},
    *,
};
use crate::scheduler::batching_policy::BatchingPolicy;

const ENGINES: [EngineKind; 2] = [EngineKind::Rten, EngineKind::Onnxruntime];

/// Loads the graph `name` after a change of its release, which is at the path.
fn load_changed(
    name: &str,
    engine: EngineKind,
    change: impl FnOnce(&Path),
) -> Result<Loaded, String> {
    let root = release(name, false);
    change(&root.path().join(name).join("1"));
    load(&settings_of(&root, name, engine)).map_err(|error| error.to_string())
}

fn refusal(name: &str, engine: EngineKind, change: impl FnOnce(&Path)) -> String {
    load_changed(name, engine, change).map(drop).unwrap_err()
}

fn policy_and_limit(name: &str, engine: EngineKind) -> (BatchingPolicy, usize) {
    let ExecutionPlan { policy, task, .. } = load_changed(name, engine, |_| ()).unwrap().plan;
    let ModelTask::Text(model) = task else {
        panic!("it reads texts");
    };
    (policy, model.tokenizer.limit())
}

#[test]
fn fixed_lengths_bound_tokens_and_texts() {
    for engine in ENGINES {
        let (policy, limit) = policy_and_limit("fixed-batch-and-length", engine);
        assert_eq!((policy.max_texts, limit), (8, 32));
        let (policy, limit) = policy_and_limit("fixed-batch", engine);
        assert_eq!((policy.max_texts, limit), (8, 64));
        let (policy, limit) = policy_and_limit("single-text-declared", engine);
        assert_eq!((policy.max_texts, limit), (1, 32));
    }
}

#[test]
fn setting_never_exceeds_fixed_batch() {
    let root = release("fixed-batch", false);
    let mut settings = settings_of(&root, "fixed-batch", EngineKind::Rten);
    settings.batching.max_texts = Some(16.try_into().unwrap());
    assert_eq!(load(&settings).unwrap().plan.policy.max_texts, 8);
}

/// The graph finds the last token of a text by the padding token 1.
#[test]
fn decoder_with_another_padding_token_is_not_padded() {
    for engine in ENGINES {
        let max_padding = |token: usize| {
            let loaded = load_changed("decoder", engine, |release| {
                let config = format!(r#"{{"model_type": "gpt2", "pad_token_id": {token}}}"#);
                fs::write(release.join("config.json"), config).unwrap();
            });
            loaded.unwrap().plan.policy.max_padding
        };
        assert!(max_padding(1) > 0);
        assert_eq!(max_padding(0), 0);
    }
}

#[test]
fn graph_of_fixed_length_without_mask_and_padding_token_is_refused() {
    for engine in ENGINES {
        let message = refusal("fixed-length-without-mask", engine, |release| {
            fs::write(release.join("config.json"), r#"{"model_type": "gpt2"}"#).unwrap();
        });
        for part in [
            "exactly 32 tokens",
            "no input attention_mask",
            "pad_token_id",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn fixed_length_without_room_for_text_is_refused() {
    let message = refusal("fixed-length", EngineKind::Rten, |release| {
        let path = release.join("tokenizer.json");
        let mut tokenizer: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let special = serde_json::json!({"SpecialToken": {"id": "<s>", "type_id": 0}});
        let mut single = vec![special; 32];
        let text = |name: &str| serde_json::json!({"Sequence": {"id": name, "type_id": 0}});
        single.push(text("A"));
        tokenizer["post_processor"] = serde_json::json!({
            "type": "TemplateProcessing", "single": single, "pair": [text("A"), text("B")],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        });
        fs::write(path, tokenizer.to_string()).unwrap();
    });
    assert!(message.contains("tokenizer.json"), "{message}");
    assert!(
        message.contains("the model takes 32 tokens: no text fits"),
        "{message}"
    );
}

#[test]
fn graph_with_nan_logits_is_refused() {
    for engine in ENGINES {
        let message = refusal("nan-logits", engine, |_| ());
        for part in [
            "fails its self-test",
            "NaN",
            "one finite number for each label",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

/// Zeros are a guess, and NaN may be the right output for them.
#[test]
fn tensor_graph_with_nan_output_for_zeros_is_served() {
    for engine in ENGINES {
        let loaded = load_changed("nan-logits", engine, |release| {
            fs::remove_file(release.join("config.json")).unwrap();
            fs::remove_file(release.join("tokenizer.json")).unwrap();
        });
        assert!(loaded.unwrap().plan.self_test_inputs.is_some());
    }
}

#[test]
fn datatype_that_rten_lacks_is_refused_with_the_other_engine() {
    let message = refusal("bf16-logits", EngineKind::Rten, |_| ());
    for part in [
        "the engine rten cannot load it",
        "BFLOAT16",
        "--engine onnxruntime",
    ] {
        assert!(message.contains(part), "{message}");
    }
}
