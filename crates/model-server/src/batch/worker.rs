use std::{
    any::Any,
    convert::Infallible,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::{
    InferenceError, Job, Outcome, Policy, Work,
    job::{Input, PreparedJob},
    queue::{Prepared, Queue, Task as Turn},
};
use crate::{
    engine::{Engine, EngineError, Spread, Tensor},
    metrics::Metrics,
    model::{Task, TextModel},
    pulse::Pulse,
    text::TokenIds,
};

/// How a release is to be run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What the release can answer.
    pub(crate) task: Task,
    /// What may share a forward pass.
    pub(crate) policy: Policy,
    /// Inputs with which an engine shows that it works, where any are known.
    pub(crate) proof: Option<Vec<Tensor>>,
    /// Whether a forward pass that is alone is faster on several threads.
    pub(crate) spread_pays: bool,
    /// How long a forward pass of one short text takes on one thread.
    pub(crate) pace: Duration,
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shop {
    /// What the release can answer.
    pub(crate) task: Task,
    /// Where work waits.
    pub(crate) queue: Queue<Job, PreparedJob>,
    /// The most tokens in a forward pass, padding included.
    pub(crate) most_tokens: usize,
    /// Inputs with which an engine shows that it works, where any are known.
    proof: Option<Vec<Tensor>>,
    /// The places of all of the graph's outputs.
    outputs: Vec<usize>,
    /// Whether a forward pass that is alone is faster on several threads.
    spread_pays: bool,
    metrics: Arc<Metrics>,
}

/// How much work has to wait before a sleeping worker is woken to help the others.
const WORTH_WAKING: Duration = Duration::from_micros(500);

impl Shop {
    /// A shop without workers, in which at most `capacity` pieces of work wait, for a graph with so
    /// many outputs.
    pub(crate) fn new(plan: Plan, capacity: usize, outputs: usize, metrics: Arc<Metrics>) -> Self {
        let Plan {
            task,
            policy,
            proof,
            spread_pays,
            pace,
        } = plan;
        let worth_waking = WORTH_WAKING.as_nanos() / pace.as_nanos().max(1);
        let worth_waking = usize::try_from(worth_waking).unwrap_or(capacity);
        Self {
            task,
            queue: Queue::new(capacity, policy, worth_waking.clamp(1, capacity)),
            most_tokens: policy.tokens,
            proof,
            outputs: (0..outputs).collect(),
            spread_pays,
            metrics,
        }
    }

    /// Whether an engine can still answer, as far as anybody can tell.
    fn prove(&self, engine: &mut dyn Engine) -> Result<(), String> {
        let Some(proof) = &self.proof else {
            return Ok(());
        };
        let pass = || self.task.prove(engine, proof, &self.outputs, Spread::Alone);
        let proved = catch_unwind(AssertUnwindSafe(pass));
        proved.unwrap_or_else(|panic| Err(panic_message(panic.as_ref())))
    }
}

/// The worker threads. They end when the queue is closed.
pub(crate) struct Workers {
    shop: Arc<Shop>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Closed when the last thread has ended; nothing is ever sent.
    ended: mpsc::Receiver<Infallible>,
}

impl Workers {
    /// Starts one thread per engine.
    ///
    /// A worker that cannot go on calls `on_failure` with the reason, and leaves its work to
    /// the others; the last one closes the queue, so that nothing waits for nobody.
    pub(crate) fn start(
        shop: Arc<Shop>,
        engines: Vec<Box<dyn Engine>>,
        on_failure: impl Fn(String) + Clone + Send + 'static,
    ) -> io::Result<(Self, Pulses)> {
        let (running, ended) = mpsc::channel(1);
        let able = Arc::new(AtomicUsize::new(engines.len()));
        let pulses = Pulses::new(engines.len());
        let mut workers = Self {
            shop,
            threads: Vec::with_capacity(engines.len()),
            ended,
        };
        for (number, mut engine) in engines.into_iter().enumerate() {
            let shop = Arc::clone(&workers.shop);
            let on_failure = on_failure.clone();
            let running = running.clone();
            let able = Arc::clone(&able);
            let pulses = pulses.clone();
            let thread = thread::Builder::new().name(format!("inference-{number}"));
            workers.threads.push(thread.spawn(move || {
                let mut ending = Ok(());
                let mut work = |engine: &mut dyn Engine| {
                    ending = serve(&shop, engine, &pulses.0[number]);
                };
                let contained = catch_unwind(AssertUnwindSafe(|| engine.enter(&mut work)));
                let ending = match contained {
                    Ok(()) => ending,
                    Err(panic) => Err(panic_message(panic.as_ref())),
                };
                if let Err(reason) = ending {
                    on_failure(format!("inference worker {number} ended: {reason}"));
                    if able.fetch_sub(1, Ordering::AcqRel) == 1 {
                        shop.queue.close();
                    }
                }
                drop(running);
            })?);
        }
        Ok((workers, pulses))
    }

    /// Closes the queue and waits for the threads, each of which first ends its forward pass.
    pub(crate) async fn stop(mut self) {
        self.shop.queue.close();
        while self.ended.recv().await.is_some() {}
        for thread in std::mem::take(&mut self.threads) {
            // A panic was caught and reported in the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shop.queue.close();
    }
}

/// Since when each worker has been in a forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Pulses(Arc<[Pulse]>);

impl Pulses {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Pulse::new()).collect())
    }

    /// How long the longest forward pass that has not ended has taken until `now`.
    pub(crate) fn longest(&self, now: Instant) -> Duration {
        let taken = self.0.iter().filter_map(|pulse| pulse.taken(now));
        taken.max().unwrap_or_default()
    }
}

/// Does what there is to do until the queue is closed, or until the engine can no longer.
fn serve(shop: &Shop, engine: &mut dyn Engine, pulse: &Pulse) -> Result<(), String> {
    let _present = Present::at(&shop.queue);
    while let Some(turn) = shop.queue.take() {
        match turn {
            Turn::Prepare(jobs) => {
                pulse.begin(Instant::now());
                prepare_all(shop, jobs);
                pulse.end();
            }
            Turn::Drop(jobs) => {
                let now = Instant::now();
                for job in jobs {
                    job.finish(Err(InferenceError::TooLate), now, now);
                }
            }
            Turn::Run(batch, spread) => {
                let spread = if shop.spread_pays {
                    spread
                } else {
                    Spread::Alone
                };
                let ending = run_batch(shop, engine, batch, spread, pulse);
                shop.queue.done();
                ending?;
            }
        }
    }
    Ok(())
}

/// Cuts texts into tokens, the long ones last: while this worker is at those, the others count
/// it as away, and come for what arrives meanwhile.
fn prepare_all(shop: &Shop, jobs: Vec<Job>) {
    if !jobs.iter().any(Job::is_slow_to_prepare) {
        return prepare_some(shop, jobs);
    }
    let (long, short): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(Job::is_slow_to_prepare);
    prepare_some(shop, short);
    let _away = Away::from(&shop.queue);
    for job in long {
        prepare_some(shop, vec![job]);
    }
}

/// Counts a worker as not there, until it is dropped.
struct Away<'a>(&'a Queue<Job, PreparedJob>);

impl<'a> Away<'a> {
    fn from(queue: &'a Queue<Job, PreparedJob>) -> Self {
        queue.leave();
        Self(queue)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.enter();
    }
}

/// Counts a worker as there, until it is dropped.
struct Present<'a>(&'a Queue<Job, PreparedJob>);

impl<'a> Present<'a> {
    fn at(queue: &'a Queue<Job, PreparedJob>) -> Self {
        queue.enter();
        Self(queue)
    }
}

impl Drop for Present<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

fn prepare_some(shop: &Shop, jobs: Vec<Job>) {
    let count = jobs.len();
    let now = Instant::now();
    let ready: Vec<_> = jobs
        .into_iter()
        // What nobody waits for is not even cut into tokens.
        .filter(|job| !job.answer.is_closed() && job.deadline > now)
        .filter_map(|job| prepare(shop, job))
        .collect();
    let failed = count - ready.len();
    shop.queue.prepared(ready, failed);
}

/// Cuts a text into tokens; a text that has none is answered at once.
fn prepare(shop: &Shop, job: Job) -> Option<Prepared<PreparedJob>> {
    let began = Instant::now();
    let input = match (job.work, &shop.task) {
        (Work::Tensors(tensors), _) => Ok(Input::Tensors(tensors)),
        (Work::Text(text), Task::Text(model)) => {
            contain(|| Ok(model.tokenizer.tokenize(&text)?)).map(Input::Tokens)
        }
        (Work::Text(_), Task::Tensors) => Err(InferenceError::NoTokenizer),
    };
    let ended = Instant::now();
    let job = |input: Input| PreparedJob {
        // A text is gone now, and its tokens are few.
        room: job.room.filter(|_| matches!(input, Input::Tensors(_))),
        input,
        arrived: job.arrived,
        deadline: job.deadline,
        tokenize: ended.saturating_duration_since(began),
        answer: job.answer,
    };
    match input {
        Ok(input) => Some(Prepared {
            length: match &input {
                Input::Tokens(tokens) => Some(tokens.ids.len()),
                Input::Tensors(_) => None,
            },
            item: job(input),
        }),
        Err(error) => {
            job(Input::Tensors(Vec::new())).finish(Err(error), ended, ended);
            None
        }
    }
}

/// Takes a batch through the model and answers it. An error means that the engine is done for.
fn run_batch(
    shop: &Shop,
    engine: &mut dyn Engine,
    batch: Vec<PreparedJob>,
    spread: Spread,
    pulse: &Pulse,
) -> Result<(), String> {
    let began = Instant::now();
    pulse.begin(began);
    let outcomes = contain(|| forward(shop, engine, &batch, spread));
    let outcomes = match outcomes {
        // One bad text must not fail its neighbors.
        Err(InferenceError::Engine(_) | InferenceError::Shape(_)) if batch.len() > 1 => {
            let mut alone = |job: &PreparedJob| {
                contain(|| forward(shop, engine, std::slice::from_ref(job), spread))
                    .and_then(|mut one| one.pop().unwrap_or(Err(InferenceError::TooLate)))
            };
            batch.iter().map(&mut alone).collect()
        }
        Ok(outcomes) => outcomes,
        Err(error) => batch.iter().map(|_| Err(error.clone())).collect::<Vec<_>>(),
    };
    let ended = Instant::now();
    let proved = match outcomes.iter().find_map(|it| engine_failure(it.as_ref())) {
        None => Ok(()),
        // The engine has to prove itself, or it would be healthy and dead.
        Some(failure) => {
            if matches!(failure, InferenceError::Panicked(_)) {
                shop.metrics.engine_panicked();
            }
            shop.prove(engine)
                .map_err(|error| format!("after {:?}: {error}", failure.to_string()))
        }
    };
    pulse.end();
    for (job, outcome) in batch.into_iter().zip(outcomes) {
        // What the client sent is to blame only where the engine is not.
        let outcome = match (&proved, outcome) {
            (Err(reason), Err(_)) => Err(InferenceError::Broken(reason.clone())),
            (_, outcome) => outcome,
        };
        job.finish(outcome, began, ended);
    }
    proved
}

/// What went wrong with a job, if the engine may be to blame.
fn engine_failure(outcome: Result<&Outcome, &InferenceError>) -> Option<InferenceError> {
    match outcome {
        Err(
            error @ (InferenceError::Engine(_)
            | InferenceError::Shape(_)
            | InferenceError::Panicked(_)),
        ) => Some(error.clone()),
        _ => None,
    }
}

/// One forward pass: one outcome per job, in their order.
fn forward(
    shop: &Shop,
    engine: &mut dyn Engine,
    batch: &[PreparedJob],
    spread: Spread,
) -> Result<Vec<Result<Outcome, InferenceError>>, InferenceError> {
    let began = Instant::now();
    let texts: Vec<&TokenIds> = batch
        .iter()
        .filter_map(|job| match &job.input {
            Input::Tokens(tokens) => Some(tokens),
            Input::Tensors(_) => None,
        })
        .collect();
    match (&shop.task, batch) {
        (
            _,
            [
                PreparedJob {
                    input: Input::Tensors(tensors),
                    ..
                },
            ],
        ) => {
            let outputs = engine.run(tensors, &shop.outputs, spread)?;
            shop.metrics.forward_pass(1, 0, 0, began.elapsed());
            Ok(vec![Ok(Outcome::Tensors(outputs))])
        }
        (Task::Text(model), _) => {
            let outcomes = classify(model, engine, &texts, spread)?;
            let real: usize = texts.iter().map(|text| text.ids.len()).sum();
            let longest = texts.iter().map(|text| text.ids.len()).max().unwrap_or(0);
            let padded = longest * texts.len();
            shop.metrics
                .forward_pass(texts.len(), real, padded, began.elapsed());
            Ok(outcomes.into_iter().map(Ok).collect())
        }
        (Task::Tensors, _) => Err(InferenceError::NoTokenizer),
    }
}

fn classify(
    model: &TextModel,
    engine: &mut dyn Engine,
    texts: &[&TokenIds],
    spread: Spread,
) -> Result<Vec<Outcome>, InferenceError> {
    let mut outputs = engine.run(&model.pack(texts), &[model.logits()], spread)?;
    let logits = outputs
        .pop()
        .ok_or_else(|| EngineError("the model gave no logits".to_owned()))?;
    let rows = model.unpack(logits, texts.len())?;
    Ok(rows
        .into_iter()
        .zip(texts)
        .map(|(logits, text)| Outcome::Text {
            logits,
            tokens: text.ids.len(),
            truncated: text.truncated,
        })
        .collect())
}

/// Turns a panic into an error.
fn contain<T>(work: impl FnOnce() -> Result<T, InferenceError>) -> Result<T, InferenceError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(InferenceError::Panicked(panic_message(panic.as_ref()))))
}

/// The text of a panic, where it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
