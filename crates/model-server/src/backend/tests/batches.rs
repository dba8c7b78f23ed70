//! A text gets the same answer alone and in a batch, whatever the graph and the engine.

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;
use crate::{
    metrics::exposition::exposition,
    scheduler::{
        inference_pool::InferencePool,
        job::{Completion, InferenceOutput, Job, JobInput},
        worker::Workers,
    },
    state::ServerState,
    task::sharing::Sharing::{self, AnyLength, EqualLength, Nothing},
};

const TEXTS: usize = 500;

/// The texts that are submitted at once.
const AT_ONCE: usize = 32;

/// The largest accepted difference between the logits of a text alone and in a batch.
const TOLERANCE: f32 = 1e-4;

/// A graph of `tests/data/graphs`.
struct Kind {
    name: &'static str,
    sharing: Sharing,
    pads_left: bool,
    /// The distance of the numbers that the type of the logits has, for logits up to 8.
    step: f32,
}

const fn kind(name: &'static str, sharing: Sharing) -> Kind {
    Kind {
        name,
        sharing,
        pads_left: false,
        step: 0.0,
    }
}

static KINDS: [Kind; 25] = [
    kind("mask", AnyLength),
    kind("no-mask", EqualLength),
    kind("no-mask-no-padding-token", EqualLength),
    kind("token-types", AnyLength),
    kind("positions", AnyLength),
    kind("decoder", AnyLength),
    kind("decoder-without-mask", EqualLength),
    kind("decoder-without-padding-token", EqualLength),
    Kind {
        pads_left: true,
        ..kind("left-padding", AnyLength)
    },
    Kind {
        pads_left: true,
        ..kind("left-padding-moves-positions", EqualLength)
    },
    kind("fixed-length", AnyLength),
    kind("fixed-length-without-mask", AnyLength),
    kind("fixed-batch", AnyLength),
    kind("fixed-batch-and-length", AnyLength),
    kind("single-text-declared", Nothing),
    kind("single-text-undeclared", Nothing),
    kind("int32", AnyLength),
    kind("fp32-mask", AnyLength),
    kind("bool-mask", AnyLength),
    kind("fp32-inputs", AnyLength),
    Kind {
        step: 1.0 / 256.0,
        ..kind("fp16-logits", AnyLength)
    },
    kind("fp64-logits", AnyLength),
    Kind {
        step: 1.0 / 32.0,
        ..kind("bf16-logits", AnyLength)
    },
    kind("multi-label", AnyLength),
    kind("quantizing", Nothing),
];

fn data() -> PathBuf {
    repository().join("crates/model-server/tests/data")
}

/// Returns a model root with the graph and a tokenizer, as version 1 of the model `name`.
pub(super) fn release(name: &str, pads_left: bool) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join(name).join("1");
    fs::create_dir_all(&directory).unwrap();
    let quantizing = data().join("models/quantizing/1");
    let graph = match name {
        "quantizing" => quantizing.clone(),
        _ => data().join("graphs").join(name),
    };
    for file in ["model.onnx", "config.json"] {
        fs::copy(graph.join(file), directory.join(file)).unwrap();
    }
    let tokenizer = fs::read(quantizing.join("tokenizer.json")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&tokenizer).unwrap();
    if pads_left {
        tokenizer["padding"] = serde_json::json!({
            "strategy": "BatchLongest", "direction": "Left", "pad_to_multiple_of": null,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "<pad>",
        });
    }
    fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    root
}

/// Returns settings for such a root, with one thread.
pub(super) fn settings_of(root: &TempDir, name: &str, engine: EngineKind) -> Settings {
    let mut settings = settings("1", engine);
    root.path().clone_into(&mut settings.model.root);
    name.clone_into(&mut settings.model.name);
    settings.engine.threads = Some(NonZeroUsize::MIN);
    settings.engine.workers = Some(NonZeroUsize::MIN);
    settings
}

/// Returns texts of 1 to 25 words.
fn texts() -> Vec<String> {
    let golden = read("models/sentiment/golden.jsonl");
    let golden: Vec<Value> = golden
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let text = |at: usize| {
        let text = golden[at % golden.len()]["input"]["text"].as_str().unwrap();
        let words = text.split_whitespace().cycle().take(1 + at * 7 % 25);
        words.collect::<Vec<_>>().join(" ")
    };
    (0..TEXTS).map(text).collect()
}

/// Submits texts at once, and returns the logits of each.
fn logits_of(pool: &InferencePool, texts: &[String]) -> Vec<Vec<f32>> {
    let now = Instant::now();
    let (jobs, waiting): (Vec<_>, Vec<_>) = texts
        .iter()
        .map(|text| {
            let (reply, completed) = oneshot::channel();
            let job = Job {
                input: JobInput::Text(text.clone()),
                reservation: None,
                arrived: now,
                deadline: now + Duration::from_mins(1),
                reply,
            };
            (job, completed)
        })
        .unzip();
    pool.queue.push(jobs.into_iter()).unwrap();
    let row = |completed: oneshot::Receiver<Completion>| match completed
        .blocking_recv()
        .unwrap()
        .result
    {
        Ok(InferenceOutput::Text { row, .. }) => row,
        other => panic!("{other:?}"),
    };
    waiting.into_iter().map(row).collect()
}

fn label(pool: &InferencePool, row: &[f32]) -> String {
    let ModelTask::Text(model) = &pool.task else {
        panic!("it reads texts");
    };
    let answer = model.task.answer(row, None).unwrap();
    answer.0.label().unwrap().to_owned()
}

fn passes(state: &ServerState) -> usize {
    let metrics = exposition(state).unwrap();
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix("model_server_batch_texts_count "));
    count.map_or(0, |count| count.parse().unwrap())
}

/// Compares all texts alone and in batches, and prints a row of the table in `tests/data/README.md`.
fn compare(kind: &Kind, settings: &Settings) -> Result<(), String> {
    let (name, engine) = (kind.name, settings.engine.kind.name());
    let loaded = load(settings).map_err(|error| format!("{name} on {engine}: {error}"))?;
    let mut plan = loaded.plan;
    let sharing = match (plan.policy.max_texts, plan.policy.max_padding) {
        (1, _) => Nothing,
        (_, 0) => EqualLength,
        _ => AnyLength,
    };
    // By default only texts of similar length share a pass, for speed.
    if sharing == AnyLength {
        plan.policy.max_padding = 1000;
    }
    if sharing != Nothing && !name.starts_with("fixed-batch") {
        plan.policy.max_texts = AT_ONCE;
    }
    let state = ServerState::new(settings, Instant::now());
    let outputs = loaded.signature.outputs.len();
    let pool = InferencePool::new(plan, 2 * AT_ONCE, outputs, Arc::clone(&state.metrics));
    let pool = Arc::new(pool);
    let _workers = Workers::start(Arc::clone(&pool), loaded.engines, |_| ()).unwrap();
    let texts = texts();
    let alone: Vec<_> = texts
        .chunks(1)
        .flat_map(|it| logits_of(&pool, it))
        .collect();
    let passes_alone = passes(&state);
    let together = texts.chunks(AT_ONCE).flat_map(|it| logits_of(&pool, it));
    let mut answers = BTreeSet::new();
    let (mut labels, mut largest) = (0, 0.0_f32);
    for (alone, together) in alone.iter().zip(together) {
        let answer = label(&pool, alone);
        labels += usize::from(answer != label(&pool, &together));
        answers.insert(answer);
        for (one, other) in alone.iter().zip(&together) {
            largest = largest.max((one - other).abs());
        }
    }
    let passes = passes(&state) - passes_alone;
    let row = format!("| {name} | {engine} | {TEXTS} | {passes} | {labels} | {largest:.0e} |");
    eprintln!("{row}");
    let tolerance = match sharing {
        Nothing => 0.0,
        _ => TOLERANCE.max(kind.step),
    };
    let same = labels == 0 && largest <= tolerance && answers.len() > 1;
    let batched = passes < TEXTS;
    if same && sharing == kind.sharing && batched == (sharing != Nothing) {
        return Ok(());
    }
    Err(format!("{row} {sharing:?}; expected {:?}", kind.sharing))
}

fn expect_same_answers(engine: EngineKind, kinds: impl Iterator<Item = &'static Kind>) {
    let compared = kinds.map(|kind| {
        let root = release(kind.name, kind.pads_left);
        compare(kind, &settings_of(&root, kind.name, engine))
    });
    let failed: Vec<String> = compared.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn batch_answers_equal_single_answers_with_rten() {
    // rten does not load BF16.
    let kinds = KINDS.iter().filter(|kind| kind.name != "bf16-logits");
    expect_same_answers(EngineKind::Rten, kinds);
}

#[test]
fn batch_answers_equal_single_answers_with_onnxruntime() {
    expect_same_answers(EngineKind::Onnxruntime, KINDS.iter());
}

fn expect_same_answers_of_shipped_releases(engine: EngineKind) {
    for release in ["v1", "v2"] {
        let mut settings = settings(release, engine);
        settings.engine.threads = Some(NonZeroUsize::MIN);
        compare(&kind(release, AnyLength), &settings).unwrap();
    }
}

#[test]
fn shipped_batch_answers_equal_single_answers_with_rten() {
    expect_same_answers_of_shipped_releases(EngineKind::Rten);
}

#[test]
fn shipped_batch_answers_equal_single_answers_with_onnxruntime() {
    expect_same_answers_of_shipped_releases(EngineKind::Onnxruntime);
}
