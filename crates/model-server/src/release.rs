use std::{
    fs, panic,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use model_repository::{
    CONFIG_FILE, MODEL_FILE, ReleaseDirectory, RepositoryError, TOKENIZER_FILE,
};
use thiserror::Error;
use tracing::warn;

use crate::{
    backend::{
        engine::{Engine, EngineKind, EngineUnavailable, GraphError, Model, Parallelism},
        onnx_file::GraphFile,
        onnxruntime::{library::OnnxRuntime, session::OnnxRuntimeModel},
        rten::RtenModel,
        tensor::{Signature, Tensor},
    },
    config::Settings,
    panic_message::panic_message,
    scheduler::{batching_policy::BatchingPolicy, inference_pool::ExecutionPlan},
    task::{
        ModelTask,
        classification::{TextClassifier, logits_of},
        model_config::{ConfigError, ModelConfig},
        warm_up_inputs,
    },
    tokenizer::text_tokenizer::{TextTokenizer, TokenizerError},
};

/// Texts that share a forward pass at most, where neither the settings nor the model object. More
/// gain hardly anything on a CPU, and the slowest requests are those that wait for long passes.
const MAX_TEXTS: usize = 4;

/// The same for models that are so fast that handing the work over counts.
const MAX_TEXTS_OF_FAST_MODEL: usize = 64;

/// Tokens of padding that one more text may add: less than half of what a pass of its own would cost
/// a large model beside the tokens.
const MAX_PADDING: usize = 3;

/// The same for fast models, which hardly feel it.
const MAX_PADDING_OF_FAST_MODEL: usize = 64;

/// A model whose forward pass takes less is fast.
const FAST_PASS: Duration = Duration::from_micros(200);

/// How often the first forward passes are timed; the fastest counts.
const TRIALS: usize = 3;

/// Why a release cannot be served. Each message names the path and what was expected there.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no such release, or one of its files cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// `config.json` is damaged.
    #[error("cannot use {path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// `tokenizer.json` is damaged.
    #[error("cannot use {path}: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// `model.onnx` is damaged.
    #[error("cannot use {path}: {source}")]
    Graph {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GraphError,
    },
    /// The engine that was asked for is not there.
    #[error(transparent)]
    Engine(#[from] EngineUnavailable),
    /// Each file can be read, but they do not fit together.
    #[error(
        "{path} does not answer a first text: {reason}; expected a model, a tokenizer and a config.json that fit together"
    )]
    WarmUp {
        /// The model's file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The engine panicked over the files.
    #[error("loading {path} panicked: {reason}; the files are probably damaged")]
    Panicked {
        /// The model's directory.
        path: PathBuf,
        /// The panic's message.
        reason: String,
    },
}

/// A release that has answered a first time, and is ready to be put to work.
pub(crate) struct Loaded {
    /// SHA-256 over the release's files, in hexadecimal.
    pub(crate) digest: String,
    /// The graph's inputs and outputs.
    pub(crate) signature: Signature,
    /// How to run it.
    pub(crate) plan: ExecutionPlan,
    /// One engine per worker, each of them warm.
    pub(crate) engines: Vec<Box<dyn Engine>>,
}

/// Reads, digests and proves the release that the settings name. Takes as long as it takes;
/// not for an async thread.
pub(crate) fn load(settings: &Settings) -> Result<Loaded, LoadError> {
    // First of all: a missing library is found at once, whatever the model's size.
    let library = match settings.engine {
        EngineKind::Rten => None,
        EngineKind::Onnxruntime => {
            Some(OnnxRuntime::load(settings.onnxruntime_library.as_deref())?)
        }
    };
    let release = ReleaseDirectory::locate(
        &settings.model_root,
        &settings.model_name,
        &settings.model_version,
    )?;
    // Both read files and calculate, and neither needs the other.
    let (digest, texts) = thread::scope(|scope| {
        let digest = scope.spawn(|| release.digest());
        let texts = release.reads_texts().then(|| read_text_files(&release));
        let digest = digest.join();
        (
            digest.unwrap_or_else(|panic| panic::resume_unwind(panic)),
            texts,
        )
    });
    let (digest, texts) = (digest?, texts.transpose()?);

    let path = release.file(MODEL_FILE);
    let unusable = |source| LoadError::Graph {
        path: path.clone(),
        source,
    };
    let bytes = Bytes::from(read(&path)?);
    let graph = GraphFile::parse(bytes.clone())
        .map_err(|reason| unusable(GraphError::Unreadable(reason)))?;
    let depends_on_neighbors = graph.quantizes_dynamically();
    let threads = settings.inference_threads.get();
    let model: Arc<dyn Model> = match library {
        None => {
            drop(graph);
            // Nobody else holds the bytes any more, so they are not copied.
            Arc::new(RtenModel::parse(bytes.into(), threads).map_err(unusable)?)
        }
        Some(library) => {
            Arc::new(OnnxRuntimeModel::parse(&library, &bytes, &graph, threads).map_err(unusable)?)
        }
    };
    let signature = model.signature().clone();
    let task = match texts {
        None => ModelTask::Tensors,
        Some((tokenizer, config)) => {
            let (_, logits) = logits_of(&signature).map_err(unusable)?;
            let classes = config.classes(logits);
            let classes = classes.map_err(|source| LoadError::Config {
                path: release.file(CONFIG_FILE),
                source,
            })?;
            let model = TextClassifier::new(&signature, tokenizer, classes, config.padding);
            ModelTask::Text(Box::new(model.map_err(unusable)?))
        }
    };

    let failed = |reason| LoadError::WarmUp {
        path: path.clone(),
        reason,
    };
    let self_test_inputs = warm_up_inputs(&task, &signature).map_err(failed)?;
    let mut engines = Vec::with_capacity(settings.inference_workers.get());
    for _ in 0..settings.inference_workers.get() {
        engines.push(Arc::clone(&model).engine()?);
    }
    let passed = self_test(&mut engines, &task, &signature, &self_test_inputs).map_err(failed)?;
    let [single_pass, parallelism] = match engines.first_mut() {
        Some(engine) => [Parallelism::Single, Parallelism::All]
            .map(|parallelism| fastest_pass(engine.as_mut(), &self_test_inputs, parallelism)),
        None => [Duration::MAX; 2],
    };
    let (most, padding) = if single_pass < FAST_PASS {
        (MAX_TEXTS_OF_FAST_MODEL, MAX_PADDING_OF_FAST_MODEL)
    } else {
        (MAX_TEXTS, MAX_PADDING)
    };
    // What cannot be filled up shares a pass only with what has its length.
    let padding = if task.can_pad() { padding } else { 0 };
    let max_texts = match settings.max_batch_texts {
        Some(set) => set.get(),
        None if depends_on_neighbors => 1,
        None => most,
    };
    Ok(Loaded {
        digest,
        signature,
        plan: ExecutionPlan {
            task,
            policy: BatchingPolicy {
                max_texts,
                max_tokens: settings.max_batch_tokens.get(),
                max_padding: padding,
            },
            self_test_inputs: passed.then_some(self_test_inputs),
            parallel_is_faster: threads > 1 && parallel_is_faster(single_pass, parallelism),
            single_pass,
        },
        engines,
    })
}

fn read_text_files(release: &ReleaseDirectory) -> Result<(TextTokenizer, ModelConfig), LoadError> {
    let path = release.file(CONFIG_FILE);
    let config =
        ModelConfig::parse(&read(&path)?).map_err(|source| LoadError::Config { path, source })?;
    let path = release.file(TOKENIZER_FILE);
    let tokenizer = TextTokenizer::parse(&read(&path)?, config.max_tokens)
        .map_err(|source| LoadError::Tokenizer { path, source })?;
    Ok((tokenizer, config))
}

/// Has each engine show that it works, and tells whether it did: `false` where the first pass was a
/// guess that the model refused.
fn self_test(
    engines: &mut [Box<dyn Engine>],
    task: &ModelTask,
    signature: &Signature,
    self_test_inputs: &[Tensor],
) -> Result<bool, String> {
    for engine in engines {
        match run_self_test(engine.as_mut(), task, signature, self_test_inputs) {
            Ok(()) => {}
            Err(reason) if task.may_reject_guessed_shapes(signature) => {
                warn!(
                    reason,
                    "not proved: the model refuses zeros in tensors whose lengths were guessed"
                );
                return Ok(false);
            }
            Err(reason) => return Err(reason),
        }
    }
    Ok(true)
}

/// Runs a first pass, and checks that its answer can be read.
fn run_self_test(
    engine: &mut dyn Engine,
    task: &ModelTask,
    signature: &Signature,
    self_test_inputs: &[Tensor],
) -> Result<(), String> {
    let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut result = Ok(());
    engine.enter(&mut |engine| {
        result = task.self_test(engine, self_test_inputs, &outputs, Parallelism::All)
    });
    result
}

/// How long a forward pass takes: the fastest of a few.
fn fastest_pass(
    engine: &mut dyn Engine,
    self_test_inputs: &[Tensor],
    parallelism: Parallelism,
) -> Duration {
    let mut fastest = Duration::MAX;
    engine.enter(&mut |engine| {
        for _ in 0..TRIALS {
            let began = Instant::now();
            if engine.run(self_test_inputs, &[0], parallelism).is_ok() {
                fastest = fastest.min(began.elapsed());
            }
        }
    });
    fastest
}

/// Whether a forward pass that takes so long on one thread, and so long on all, is better spread.
///
/// Fast models lose more by handing work over than they win, whatever a few microseconds say: while the
/// helping threads look for their part of a pass, they keep cores busy that others need.
fn parallel_is_faster(single_pass: Duration, parallelism: Duration) -> bool {
    single_pass >= FAST_PASS && parallelism < single_pass
}

/// Turns a panic while loading into an error.
pub(crate) fn panicked(settings: &Settings, error: tokio::task::JoinError) -> LoadError {
    let reason = error.try_into_panic().map_or_else(
        |error| error.to_string(),
        |panic| panic_message(panic.as_ref()),
    );
    LoadError::Panicked {
        path: settings
            .model_root
            .join(&settings.model_name)
            .join(&settings.model_version),
        reason,
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, RepositoryError> {
    fs::read(path).map_err(|source| RepositoryError::Unreadable {
        path: path.clone(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_spread_where_that_is_faster_unless_the_model_is_fast_anyway() {
        let [fast, slow] = [FAST_PASS / 20, FAST_PASS * 20];
        assert!(parallel_is_faster(slow, slow / 2));
        assert!(!parallel_is_faster(slow, slow));
        assert!(!parallel_is_faster(fast, fast / 2));
    }
}
