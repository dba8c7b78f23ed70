use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use crate::{
    backend::{
        engine::{Engine, Parallelism},
        tensor::Tensor,
    },
    busy_timer::BusyTimer,
    panic_message::panic_message,
    scheduler::{
        inference_pool::InferencePool,
        job::{InferenceError, InferenceOutput, PreparedInput, PreparedJob},
    },
    task::{ModelTask, text_model::TextModel},
    tokenizer::text_tokenizer::TokenIds,
};

/// Runs a batch, and replies to its jobs. Returns an error if the engine no longer works.
pub(crate) fn run_batch(
    pool: &InferencePool,
    engine: &mut dyn Engine,
    batch: Vec<PreparedJob>,
    parallelism: Parallelism,
    timer: &BusyTimer,
) -> Result<(), String> {
    let began = Instant::now();
    timer.begin(began);
    let results = catch_panic(|| forward(pool, engine, &batch, parallelism));
    let results = match results {
        // Each text runs alone, so that a bad one does not fail the others.
        Err(InferenceError::Engine(_) | InferenceError::Output(_)) if batch.len() > 1 => {
            let mut alone = |job: &PreparedJob| {
                catch_panic(|| forward(pool, engine, std::slice::from_ref(job), parallelism))
                    .and_then(|mut one| one.pop().unwrap_or(Err(InferenceError::Expired)))
            };
            batch.iter().map(&mut alone).collect()
        }
        Ok(results) => results,
        Err(error) => batch.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
    };
    let ended = Instant::now();
    let passed = match results.iter().find_map(|it| engine_failure(it.as_ref())) {
        None => Ok(()),
        // Without a self-test, a broken engine would stay healthy and answer nobody.
        Some(failure) => {
            if matches!(failure, InferenceError::Panicked(_)) {
                pool.metrics.engine_panicked();
            }
            pool.self_test(engine)
                .map_err(|error| format!("after {:?}: {error}", failure.to_string()))
        }
    };
    timer.end();
    for (job, result) in batch.into_iter().zip(results) {
        // The request is to blame only if the engine passes its self-test.
        let result = match (&passed, result) {
            (Err(reason), Err(_)) => Err(InferenceError::Broken(reason.clone())),
            (_, result) => result,
        };
        job.finish(result, began, ended);
    }
    passed
}

/// Returns the error of a job if the engine may have caused it.
fn engine_failure(result: Result<&InferenceOutput, &InferenceError>) -> Option<InferenceError> {
    match result {
        Err(
            error @ (InferenceError::Engine(_)
            | InferenceError::Output(_)
            | InferenceError::Panicked(_)),
        ) => Some(error.clone()),
        _ => None,
    }
}

/// Runs one forward pass. Returns one result for each job, in their order.
pub(crate) fn forward(
    pool: &InferencePool,
    engine: &mut dyn Engine,
    batch: &[PreparedJob],
    parallelism: Parallelism,
) -> Result<Vec<Result<InferenceOutput, InferenceError>>, InferenceError> {
    let began = Instant::now();
    let texts: Vec<&TokenIds> = batch
        .iter()
        .filter_map(|job| match &job.input {
            PreparedInput::Tokens(tokens) => Some(tokens),
            PreparedInput::Tensors(_) => None,
        })
        .collect();
    match (&pool.task, batch) {
        (
            _,
            [
                PreparedJob {
                    input: PreparedInput::Tensors(tensors),
                    ..
                },
            ],
        ) => {
            let outputs = engine.run(tensors, &pool.outputs, parallelism)?;
            pool.metrics.forward_pass(1, 0, 0, began.elapsed());
            Ok(vec![Ok(InferenceOutput::Tensors(outputs))])
        }
        (ModelTask::Text(model), _) => {
            let lengths: Vec<usize> = texts.iter().map(|text| text.ids.len()).collect();
            let inputs = model.pack(&texts);
            let results = run_texts(model, engine, &inputs, &texts, &lengths, parallelism)?;
            let real: usize = lengths.iter().sum();
            let padded = inputs.first().map_or(0, |input| input.elements.len());
            pool.metrics
                .forward_pass(texts.len(), real, padded, began.elapsed());
            Ok(results.into_iter().map(Ok).collect())
        }
        (ModelTask::Tensors, _) => Err(InferenceError::NoTokenizer),
    }
}

fn run_texts(
    model: &TextModel,
    engine: &mut dyn Engine,
    inputs: &[Tensor],
    texts: &[&TokenIds],
    lengths: &[usize],
    parallelism: Parallelism,
) -> Result<Vec<InferenceOutput>, InferenceError> {
    let rows = model.run(engine, inputs, lengths, parallelism)?;
    Ok(rows
        .into_iter()
        .zip(texts)
        .map(|(row, text)| InferenceOutput::Text {
            row,
            tokens: text.ids.len(),
            truncated: text.truncated,
        })
        .collect())
}

/// Turns a panic into an error.
pub(crate) fn catch_panic<T>(
    work: impl FnOnce() -> Result<T, InferenceError>,
) -> Result<T, InferenceError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(InferenceError::Panicked(panic_message(panic.as_ref()))))
}
