mod files;
mod warm_up;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use model_repository::{CONFIG_FILE, ReleaseDirectory, RepositoryError, TOKENIZER_FILE};
use thiserror::Error;
use tracing::warn;

use crate::{
    backend::{
        engine::{Engine, EngineKind, EngineUnavailable, GraphError, Parallelism},
        onnxruntime::library::OnnxRuntime,
        tensor::{Signature, Tensor},
    },
    config::{Batching, EngineSettings, ModelSettings, Settings},
    panic_message::panic_message,
    release::{
        files::{TextFiles, digest_and_read_text_files, load_graph},
        warm_up::WarmUp,
    },
    scheduler::{batching_policy::BatchingPolicy, inference_pool::ExecutionPlan},
    task::{
        ModelTask, model_config::ConfigError, sharing::Sharing, text_model::TextModel,
        text_task::TextTaskError, warm_up_inputs,
    },
    tokenizer::text_tokenizer::TokenizerError,
};

/// The default for the most texts in a forward pass. Larger batches gain hardly anything on a CPU, and the
/// slowest requests are those that wait for long passes.
const MAX_TEXTS: usize = 4;

/// The same for fast models, where handing work to a thread costs as much as a pass.
const MAX_TEXTS_OF_FAST_MODEL: usize = 64;

/// The most padding that one more text may add. It costs less than half of the fixed cost of a pass of a large
/// model.
const MAX_PADDING: usize = 3;

/// The same for fast models, where padding costs little.
const MAX_PADDING_OF_FAST_MODEL: usize = 64;

/// A model is fast if its forward pass takes less.
const FAST_PASS: Duration = Duration::from_micros(200);

/// How many passes are timed; the fastest one counts.
const TRIALS: usize = 3;

/// How an engine may run a pass.
const PARALLELISMS: [Parallelism; 2] = [Parallelism::Single, Parallelism::All];

/// Why a release cannot be served. Each message names the path and what was expected there.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The release does not exist, or one of its files cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// `config.json` is damaged.
    #[error("cannot use {path}: {source}")]
    Config {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// `tokenizer.json` is damaged.
    #[error("cannot use {path}: {source}")]
    Tokenizer {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// The graph is damaged.
    #[error("cannot use {path}: {source}")]
    Graph {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: GraphError,
    },
    /// The engine is not available.
    #[error(transparent)]
    Engine(#[from] EngineUnavailable),
    /// Each file can be read, but they do not fit together.
    #[error(
        "{path} fails its self-test: {reason}; expected a model, a tokenizer, and a config.json that fit together"
    )]
    WarmUp {
        /// The path of the model.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// A request of the release's own warm-up is invalid, or the model cannot answer it.
    #[error(
        "{path}, line {line}: {reason}; expected a request that the model can answer, such as {{\"text\": \"a fine film\"}}"
    )]
    WarmUpRequest {
        /// The path of the file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with the request, or how the model failed.
        reason: String,
    },
    /// The engine panicked while it loaded the files.
    #[error("loading {path} panicked: {reason}; the files are probably damaged")]
    Panicked {
        /// The directory of the release.
        path: PathBuf,
        /// The message of the panic.
        reason: String,
    },
}

/// A loaded and tested release.
pub(crate) struct Loaded {
    /// SHA-256 of the release's files, in hexadecimal.
    pub(crate) digest: String,
    /// The inputs and outputs of the graph.
    pub(crate) signature: Signature,
    /// How to run it.
    pub(crate) plan: ExecutionPlan,
    /// One engine for each worker.
    pub(crate) engines: Vec<Box<dyn Engine>>,
}

/// Loads, digests, and tests the release that the settings name. It blocks, so it must not run on an async
/// thread.
pub(crate) fn load(settings: &Settings) -> Result<Loaded, LoadError> {
    // First, so that a missing library is reported at once, before a large model is read.
    let library = load_library(&settings.engine)?;
    let release = ReleaseDirectory::locate(
        &settings.model.root,
        &settings.model.name,
        &settings.model.version,
    )?;
    let (digest, text_files) = digest_and_read_text_files(&release)?;
    let graph = release.graph()?;
    let path = release.file(&graph);
    let threads = settings.engine.threads().get();
    let (model, quantizes_dynamically) = load_graph(&release, &graph, library, threads)?;
    let signature = model.signature().clone();
    let task = match text_files {
        None => ModelTask::Tensors,
        Some(files) => ModelTask::Text(Box::new(text_model(&release, &path, files, &signature)?)),
    };

    let failed = |reason| LoadError::WarmUp {
        path: path.clone(),
        reason,
    };
    let self_test_inputs = warm_up_inputs(&task, &signature).map_err(failed)?;
    let workers = settings.engine.workers().get();
    let mut engines = Vec::with_capacity(workers);
    for _ in 0..workers {
        engines.push(Arc::clone(&model).engine()?);
    }
    let passed = self_test(&mut engines, &task, &signature, &self_test_inputs).map_err(failed)?;
    if let Some(warm_up) = WarmUp::read(&release, &task)? {
        warm_up.run(&mut engines, &task, &signature)?;
    }
    let [single_pass, parallel_pass] = match engines.first_mut() {
        Some(engine) => PARALLELISMS
            .map(|parallelism| fastest_pass(engine.as_mut(), &self_test_inputs, parallelism)),
        None => [Duration::MAX; 2],
    };
    let sharing = match engines.first_mut() {
        Some(engine) if !quantizes_dynamically => task.measure_sharing(engine.as_mut()),
        _ => Sharing::Nothing,
    };
    let policy = batching_policy(settings.batching, &task, single_pass, sharing);
    Ok(Loaded {
        digest,
        signature,
        plan: ExecutionPlan {
            task,
            policy,
            self_test_inputs: passed.then_some(self_test_inputs),
            parallel_is_faster: threads > 1 && parallel_is_faster(single_pass, parallel_pass),
            single_pass,
        },
        engines,
    })
}

fn load_library(settings: &EngineSettings) -> Result<Option<OnnxRuntime>, LoadError> {
    Ok(match settings.kind {
        EngineKind::Rten => None,
        EngineKind::Onnxruntime => Some(OnnxRuntime::load(settings.library.as_deref())?),
    })
}

fn unusable_graph(path: &Path, source: GraphError) -> LoadError {
    LoadError::Graph {
        path: path.to_owned(),
        source,
    }
}

fn text_model(
    release: &ReleaseDirectory,
    graph: &Path,
    (tokenizer, config): TextFiles,
    signature: &Signature,
) -> Result<TextModel, LoadError> {
    TextModel::new(signature, tokenizer, &config).map_err(|error| match error {
        TextTaskError::Config(source) => LoadError::Config {
            path: release.file(CONFIG_FILE),
            source,
        },
        TextTaskError::Graph(source) => unusable_graph(graph, source),
        TextTaskError::Tokenizer(source) => LoadError::Tokenizer {
            path: release.file(TOKENIZER_FILE),
            source,
        },
    })
}

fn batching_policy(
    batching: Batching,
    task: &ModelTask,
    single_pass: Duration,
    sharing: Sharing,
) -> BatchingPolicy {
    let (max_texts, max_padding) = if single_pass < FAST_PASS {
        (MAX_TEXTS_OF_FAST_MODEL, MAX_PADDING_OF_FAST_MODEL)
    } else {
        (MAX_TEXTS, MAX_PADDING)
    };
    let (fixed_texts, can_pad) = match task {
        ModelTask::Text(model) => (model.fixed_texts(), model.can_pad()),
        ModelTask::Tensors => (None, false),
    };
    let max_texts = match batching.max_texts {
        Some(set) => set.get(),
        None if sharing == Sharing::Nothing => 1,
        // Such a graph computes all rows anyway.
        None => fixed_texts.unwrap_or(max_texts),
    };
    BatchingPolicy {
        max_texts: max_texts.min(fixed_texts.unwrap_or(max_texts)),
        max_tokens: batching.max_tokens.get(),
        max_padding: match sharing {
            Sharing::AnyLength | Sharing::Nothing if can_pad => max_padding,
            _ => 0,
        },
    }
}

/// Runs the self-test on each engine, with each parallelism. Returns `false` if the inputs were guessed and the model rejected them.
fn self_test(
    engines: &mut [Box<dyn Engine>],
    task: &ModelTask,
    signature: &Signature,
    self_test_inputs: &[Tensor],
) -> Result<bool, String> {
    for engine in engines {
        for parallelism in PARALLELISMS {
            let tested = run_self_test(
                engine.as_mut(),
                task,
                signature,
                self_test_inputs,
                parallelism,
            );
            match tested {
                Ok(()) => {}
                Err(reason) if task.may_reject_guessed_shapes(signature) => {
                    warn!(
                        reason,
                        "no self-test: the model rejects zeros in tensors of guessed lengths"
                    );
                    return Ok(false);
                }
                Err(reason) => return Err(reason),
            }
        }
    }
    Ok(true)
}

/// Runs the self-test inputs, and checks that the outputs can be read.
fn run_self_test(
    engine: &mut dyn Engine,
    task: &ModelTask,
    signature: &Signature,
    self_test_inputs: &[Tensor],
    parallelism: Parallelism,
) -> Result<(), String> {
    let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut result = Ok(());
    engine.enter(&mut |engine| {
        result = task.self_test(engine, self_test_inputs, &outputs, parallelism);
    });
    result
}

/// Returns the duration of the fastest of a few forward passes.
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

/// Whether a single pass should use all threads, given its durations on one thread and on all.
///
/// A fast model never does: the handover costs more than it gains, and spinning helper threads take cores from
/// other requests.
fn parallel_is_faster(single_pass: Duration, parallelism: Duration) -> bool {
    single_pass >= FAST_PASS && parallelism < single_pass
}

/// Turns a panic while loading into an error.
pub(crate) fn panicked(model: &ModelSettings, error: tokio::task::JoinError) -> LoadError {
    let reason = error.try_into_panic().map_or_else(
        |error| error.to_string(),
        |panic| panic_message(panic.as_ref()),
    );
    LoadError::Panicked {
        path: model.root.join(&model.name).join(&model.version),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::engine::{EngineError, EngineTask};

    #[test]
    fn parallel_pass_pays_only_for_slow_models() {
        let [fast, slow] = [FAST_PASS / 20, FAST_PASS * 20];
        assert!(parallel_is_faster(slow, slow / 2));
        assert!(!parallel_is_faster(slow, slow));
        assert!(!parallel_is_faster(fast, fast / 2));
    }

    /// An engine that fails with one parallelism.
    struct BrokenWith(Parallelism);

    impl Engine for BrokenWith {
        fn run(
            &mut self,
            _: &[Tensor],
            _: &[usize],
            parallelism: Parallelism,
        ) -> Result<Vec<Tensor>, EngineError> {
            if parallelism == self.0 {
                return Err(EngineError("broken".to_owned()));
            }
            Ok(Vec::new())
        }

        fn enter(&mut self, work: EngineTask<'_>) {
            work(self);
        }
    }

    #[test]
    fn self_test_fails_if_the_engine_fails_with_either_parallelism() {
        let signature = Signature {
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        for broken in PARALLELISMS {
            let mut engines: [Box<dyn Engine>; 1] = [Box::new(BrokenWith(broken))];
            let tested = self_test(&mut engines, &ModelTask::Tensors, &signature, &[]);
            assert!(tested.unwrap_err().contains("broken"), "{broken:?}");
        }
    }
}
