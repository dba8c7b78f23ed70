//! Measures the throughput of the model without a server, which is the upper limit for the server.

use std::{
    fs, io,
    num::NonZeroU32,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use thiserror::Error;

use crate::{
    backend::engine::{Engine, Parallelism},
    config::{ServeArguments, Settings, SettingsError},
    release::{LoadError, Loaded, load},
    scheduler::{batching_policy::BatchingPolicy, inference_pool::ExecutionPlan},
    task::{ModelTask, text_model::TextModel},
};

/// How many texts a worker takes at once, as if that many clients waited.
const TEXTS_PER_ROUND: usize = 32;

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct MeasureArguments {
    #[command(flatten)]
    serve: ServeArguments,

    /// File with one text on each line
    #[arg(long, value_name = "PATH")]
    texts: PathBuf,

    /// How long to measure
    #[arg(long, default_value = "5", value_name = "SECONDS")]
    seconds: NonZeroU32,
}

/// Why the measurement failed.
#[derive(Debug, Error)]
pub enum MeasureError {
    /// A setting is missing.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The release cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The file of texts cannot be read.
    #[error("cannot read {path}: {source}; expected a file of texts, one a line")]
    Texts {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The release takes tensors.
    #[error("this release takes tensors; `measure` needs one that reads texts")]
    NoTexts,
    /// The model failed on a text.
    #[error("the model failed: {0}")]
    Failed(String),
}

/// Tokenizes texts and runs the model on all workers. Returns texts per second.
pub fn measure(arguments: MeasureArguments) -> Result<f64, MeasureError> {
    let path = arguments.texts;
    let content = fs::read_to_string(&path).and_then(|content| {
        let blank = content.trim().is_empty();
        let error = || io::Error::new(io::ErrorKind::InvalidData, "it holds no text");
        if blank { Err(error()) } else { Ok(content) }
    });
    let content = content.map_err(|source| MeasureError::Texts { path, source })?;
    let texts: Vec<&str> = content
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let settings: Settings = arguments.serve.resolve()?;
    let Loaded {
        plan: ExecutionPlan { task, policy, .. },
        engines,
        ..
    } = load(&settings)?;
    let ModelTask::Text(model) = task else {
        return Err(MeasureError::NoTexts);
    };
    let next = AtomicUsize::new(0);
    let began = Instant::now();
    let end = began + Duration::from_secs(arguments.seconds.get().into());
    let work = |mut engine: Box<dyn Engine>| {
        let mut count = Ok(0);
        engine.enter(&mut |engine| {
            count = run_until(end, engine, &model, &policy, || {
                let start = next.fetch_add(TEXTS_PER_ROUND, Ordering::Relaxed);
                (start..start + TEXTS_PER_ROUND).map(|at| texts[at % texts.len()])
            });
        });
        count
    };
    let work = &work;
    let counts: Vec<Result<usize, String>> = thread::scope(|scope| {
        let threads: Vec<_> = engines
            .into_iter()
            .map(|engine| scope.spawn(move || work(engine)))
            .collect();
        threads
            .into_iter()
            .map(|thread| {
                let ended = thread.join();
                ended.unwrap_or_else(|_| Err("the engine panicked".to_owned()))
            })
            .collect()
    });
    let mut sum = 0;
    for count in counts {
        sum += count.map_err(MeasureError::Failed)?;
    }
    Ok(sum as f64 / began.elapsed().as_secs_f64())
}

/// Runs batches until `end`, and returns the number of texts.
fn run_until<'a, I: Iterator<Item = &'a str>>(
    end: Instant,
    engine: &mut dyn Engine,
    model: &TextModel,
    policy: &BatchingPolicy,
    take: impl Fn() -> I,
) -> Result<usize, String> {
    let mut count = 0;
    while Instant::now() < end {
        let tokens = take().map(|text| model.tokenizer.tokenize(text));
        let mut waiting = tokens
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        while !waiting.is_empty() {
            let lengths = waiting
                .iter()
                .map(|text| model.computed_tokens(text.ids.len()));
            let lengths: Vec<usize> = lengths.collect();
            let chosen = policy.choose(&lengths);
            let batch: Vec<_> = chosen.iter().map(|at| &waiting[*at]).collect();
            let outputs = [model.task.output()];
            let output = engine.run(&model.pack(&batch), &outputs, Parallelism::Single);
            output.map_err(|error| error.to_string())?;
            count += chosen.len();
            for at in chosen.into_iter().rev() {
                waiting.swap_remove(at);
            }
        }
    }
    Ok(count)
}
