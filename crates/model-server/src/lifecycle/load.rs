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
    batch::{Plan, Policy, panic_message},
    engine::{
        Engine, EngineKind, EngineUnavailable, GraphError, GraphFile, Model, OnnxRuntime,
        OnnxRuntimeModel, RtenModel, Signature, Spread, Tensor,
    },
    model::{Task, TextModel, logits_of, warm_up_inputs},
    settings::Settings,
    text::{ConfigError, ModelConfig, TextTokenizer, TokenizerError},
};

/// Texts that share a forward pass at most, where neither the settings nor the model object. More
/// gain hardly anything on a CPU, and the slowest requests are those that wait for long passes.
const MAX_TEXTS: usize = 4;

/// The same for models that are so fast that handing the work over counts.
const MAX_TEXTS_OF_FAST: usize = 64;

/// Tokens of padding that one more text may add: less than half of what a pass of its own would cost
/// a large model beside the tokens.
const MAX_PADDING: usize = 3;

/// The same for fast models, which hardly feel it.
const MAX_PADDING_OF_FAST: usize = 64;

/// A model whose forward pass takes less is fast.
const FAST: Duration = Duration::from_micros(200);

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
    pub(crate) plan: Plan,
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
        let texts = release.reads_texts().then(|| texts_of(&release));
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
    let depends_on_neighbors = graph.quantizes_as_it_goes();
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
        None => Task::Tensors,
        Some((tokenizer, config)) => {
            let (_, logits) = logits_of(&signature).map_err(unusable)?;
            let classes = config.classes(logits);
            let classes = classes.map_err(|source| LoadError::Config {
                path: release.file(CONFIG_FILE),
                source,
            })?;
            let model = TextModel::new(&signature, tokenizer, classes, config.filling);
            Task::Text(Box::new(model.map_err(unusable)?))
        }
    };

    let failed = |reason| LoadError::WarmUp {
        path: path.clone(),
        reason,
    };
    let proof = warm_up_inputs(&task, &signature).map_err(failed)?;
    let mut engines = Vec::with_capacity(settings.inference_workers.get());
    for _ in 0..settings.inference_workers.get() {
        engines.push(Arc::clone(&model).engine()?);
    }
    let proved = prove(&mut engines, &task, &signature, &proof).map_err(failed)?;
    let [pace, spread] = match engines.first_mut() {
        Some(engine) => {
            [Spread::Alone, Spread::All].map(|spread| time(engine.as_mut(), &proof, spread))
        }
        None => [Duration::MAX; 2],
    };
    let (most, padding) = if pace < FAST {
        (MAX_TEXTS_OF_FAST, MAX_PADDING_OF_FAST)
    } else {
        (MAX_TEXTS, MAX_PADDING)
    };
    // What cannot be filled up shares a pass only with what has its length.
    let padding = if task.can_fill_up() { padding } else { 0 };
    let max_texts = match settings.max_batch_texts {
        Some(set) => set.get(),
        None if depends_on_neighbors => 1,
        None => most,
    };
    Ok(Loaded {
        digest,
        signature,
        plan: Plan {
            task,
            policy: Policy {
                texts: max_texts,
                tokens: settings.max_batch_tokens.get(),
                padding,
            },
            proof: proved.then_some(proof),
            spread_pays: threads > 1 && spread_pays(pace, spread),
            pace,
        },
        engines,
    })
}

fn texts_of(release: &ReleaseDirectory) -> Result<(TextTokenizer, ModelConfig), LoadError> {
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
fn prove(
    engines: &mut [Box<dyn Engine>],
    task: &Task,
    signature: &Signature,
    proof: &[Tensor],
) -> Result<bool, String> {
    for engine in engines {
        match first_pass(engine.as_mut(), task, signature, proof) {
            Ok(()) => {}
            Err(reason) if task.may_refuse_a_guess(signature) => {
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
fn first_pass(
    engine: &mut dyn Engine,
    task: &Task,
    signature: &Signature,
    proof: &[Tensor],
) -> Result<(), String> {
    let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut result = Ok(());
    engine.enter(&mut |engine| result = task.prove(engine, proof, &outputs, Spread::All));
    result
}

/// How long a forward pass takes: the fastest of a few.
fn time(engine: &mut dyn Engine, proof: &[Tensor], spread: Spread) -> Duration {
    let mut fastest = Duration::MAX;
    engine.enter(&mut |engine| {
        for _ in 0..TRIALS {
            let began = Instant::now();
            if engine.run(proof, &[0], spread).is_ok() {
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
fn spread_pays(pace: Duration, spread: Duration) -> bool {
    pace >= FAST && spread < pace
}

/// Turns a panic while loading into an error.
pub(super) fn panicked(settings: &Settings, error: tokio::task::JoinError) -> LoadError {
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
        let [fast, slow] = [FAST / 20, FAST * 20];
        assert!(spread_pays(slow, slow / 2));
        assert!(!spread_pays(slow, slow));
        assert!(!spread_pays(fast, fast / 2));
    }
}
