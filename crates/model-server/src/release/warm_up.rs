//! The requests of a release's own warm-up, `warmup.jsonl`.

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use model_repository::{ReleaseDirectory, RepositoryError, WARM_UP_FILE};
use serde::Deserialize;
use tracing::{info, warn};

use crate::{
    backend::{
        engine::Engine,
        tensor::{Signature, Tensor},
    },
    release::{LoadError, PARALLELISMS, run_self_test},
    task::ModelTask,
};

/// The most requests of a warm-up.
const MAX_REQUESTS: usize = 100;

/// How long a warm-up may take. It does not interrupt a forward pass.
const MAX_DURATION: Duration = Duration::from_secs(20);

/// A line of the file, in the shape of a request to `/predict` for one text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WarmUpRequest {
    text: String,
    text_pair: Option<String>,
    /// Not used: it changes the answer, and not the forward pass.
    #[serde(rename = "top_k")]
    _top_k: Option<NonZeroUsize>,
}

/// The passes of a warm-up.
pub(super) struct WarmUp {
    path: PathBuf,
    passes: Vec<WarmUpPass>,
}

/// The inputs of the graph for one request.
struct WarmUpPass {
    /// The line of the request, counted from 1.
    line: usize,
    inputs: Vec<Tensor>,
}

impl WarmUp {
    /// Reads the requests of a release, if it has any.
    pub(super) fn read(
        release: &ReleaseDirectory,
        task: &ModelTask,
    ) -> Result<Option<Self>, LoadError> {
        let path = release.file(WARM_UP_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let content = fs::read_to_string(&path).map_err(|source| RepositoryError::Unreadable {
            path: path.clone(),
            source,
        })?;
        let mut passes = Vec::new();
        for (index, text) in content.lines().enumerate() {
            if text.trim().is_empty() {
                continue;
            }
            let line = index + 1;
            if passes.len() == MAX_REQUESTS {
                let reason = format!("the file has more requests; expected at most {MAX_REQUESTS}");
                return Err(refusal(&path, line, reason));
            }
            let inputs = inputs_of(task, text).map_err(|it| refusal(&path, line, it))?;
            passes.push(WarmUpPass { line, inputs });
        }
        Ok(Some(Self { path, passes }))
    }

    /// Runs each request on each engine, with each parallelism. Fails at the first request that the model cannot
    /// answer. Stops after [`MAX_DURATION`], because a slow machine is no reason to refuse a release.
    pub(super) fn run(
        &self,
        engines: &mut [Box<dyn Engine>],
        task: &ModelTask,
        signature: &Signature,
    ) -> Result<(), LoadError> {
        let began = Instant::now();
        let planned = self.passes.len() * engines.len() * PARALLELISMS.len();
        let mut passes = 0;
        // If the time runs out, every engine has run the first requests.
        for WarmUpPass { line, inputs } in &self.passes {
            for engine in &mut *engines {
                for parallelism in PARALLELISMS {
                    if began.elapsed() > MAX_DURATION {
                        warn!(
                            passes,
                            planned, "the warm-up stopped after {MAX_DURATION:?}"
                        );
                        return Ok(());
                    }
                    run_self_test(engine.as_mut(), task, signature, inputs, parallelism)
                        .map_err(|reason| refusal(&self.path, *line, reason))?;
                    passes += 1;
                }
            }
        }
        info!(passes, took = ?began.elapsed(), "warmed up");
        Ok(())
    }
}

/// Returns the inputs of the graph for a line.
fn inputs_of(task: &ModelTask, line: &str) -> Result<Vec<Tensor>, String> {
    let ModelTask::Text(model) = task else {
        return Err(
            "this release takes tensors, and a warm-up has texts; delete the file".to_owned(),
        );
    };
    let request: WarmUpRequest = serde_json::from_str(line).map_err(|error| {
        error
            .to_string()
            .replace(" at line 1 column ", " at column ")
    })?;
    if request.text.trim().is_empty() {
        return Err("text is blank".to_owned());
    }
    let tokens = match &request.text_pair {
        None => model.tokenizer.tokenize(&request.text),
        Some(pair) if pair.trim().is_empty() => return Err("text_pair is blank".to_owned()),
        Some(pair) => model.tokenizer.tokenize_pair(&request.text, pair),
    };
    Ok(model.pack(&[&tokens.map_err(|error| error.to_string())?]))
}

fn refusal(path: &Path, line: usize, reason: String) -> LoadError {
    LoadError::WarmUpRequest {
        path: path.to_owned(),
        line,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::backend::{
        engine::{EngineError, EngineTask, Parallelism},
        tensor::Elements,
    };

    /// The engine's number, the number of inputs, and the parallelism.
    type Pass = (usize, usize, Parallelism);

    /// Reports each pass, and fails on two inputs.
    struct ReportingEngine(usize, Sender<Pass>);

    impl Engine for ReportingEngine {
        fn run(
            &mut self,
            inputs: &[Tensor],
            _: &[usize],
            parallelism: Parallelism,
        ) -> Result<Vec<Tensor>, EngineError> {
            self.1.send((self.0, inputs.len(), parallelism)).unwrap();
            match inputs.len() {
                2 => Err(EngineError("two are too many".to_owned())),
                _ => Ok(Vec::new()),
            }
        }

        fn enter(&mut self, work: EngineTask<'_>) {
            work(self);
        }
    }

    fn run(lines: &[(usize, usize)]) -> (Result<(), String>, Vec<Pass>) {
        let pass = |(line, inputs): &(usize, usize)| WarmUpPass {
            line: *line,
            inputs: vec![
                Tensor {
                    shape: vec![1],
                    elements: Elements::Fp32(vec![0.0]),
                };
                *inputs
            ],
        };
        let warm_up = WarmUp {
            path: "v1/warmup.jsonl".into(),
            passes: lines.iter().map(pass).collect(),
        };
        let (sender, receiver) = channel();
        let engine =
            |number| -> Box<dyn Engine> { Box::new(ReportingEngine(number, sender.clone())) };
        let signature = Signature {
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let result = warm_up.run(&mut [engine(0), engine(1)], &ModelTask::Tensors, &signature);
        drop(sender);
        let result = result.map_err(|error| error.to_string());
        (result, receiver.try_iter().collect())
    }

    #[test]
    fn warm_up_runs_each_request_on_each_engine_in_each_mode() {
        let (result, passes) = run(&[(1, 1), (2, 3)]);
        result.unwrap();
        let expected = [1, 3].map(|inputs| {
            [0, 1].map(|engine| PARALLELISMS.map(|parallelism| (engine, inputs, parallelism)))
        });
        assert_eq!(passes, expected.as_flattened().as_flattened());
    }

    #[test]
    fn failed_warm_up_request_is_named_with_its_line() {
        let (result, passes) = run(&[(1, 1), (5, 2)]);
        let message = result.unwrap_err();
        assert!(
            message.starts_with("v1/warmup.jsonl, line 5: "),
            "{message}"
        );
        assert!(message.contains("two are too many"), "{message}");
        assert_eq!(passes.len(), 5);
    }
}
