use std::{
    convert::Infallible,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Instant,
};

use tokio::sync::mpsc;

use crate::{
    backend::engine::{Engine, Parallelism},
    busy_timer::BusyTimer,
    panic_message::panic_message,
    scheduler::{
        batch_queue::{ReadyItem, WorkItem},
        forward_pass::{catch_panic, run_batch},
        inference_pool::InferencePool,
        job::{InferenceError, Job, JobInput, PreparedInput, PreparedJob},
        shared_queue::SharedBatchQueue,
        watchdog::Watchdog,
    },
    task::ModelTask,
};

/// The worker threads. They end when the queue is closed.
pub(crate) struct Workers {
    pool: Arc<InferencePool>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Closes when the last thread has ended. Nothing is ever sent.
    ended: mpsc::Receiver<Infallible>,
}

impl Workers {
    /// Starts one thread for each engine.
    ///
    /// A worker whose engine fails calls `on_failure` with the reason, and the other workers go on. The last
    /// one closes the queue, so that no job waits forever.
    pub(crate) fn start(
        pool: Arc<InferencePool>,
        engines: Vec<Box<dyn Engine>>,
        on_failure: impl Fn(String) + Clone + Send + 'static,
    ) -> io::Result<(Self, Watchdog)> {
        let (running, ended) = mpsc::channel(1);
        let running_workers = Arc::new(AtomicUsize::new(engines.len()));
        let watchdog = Watchdog::new(engines.len());
        let mut workers = Self {
            pool,
            threads: Vec::with_capacity(engines.len()),
            ended,
        };
        for (number, mut engine) in engines.into_iter().enumerate() {
            let pool = Arc::clone(&workers.pool);
            let on_failure = on_failure.clone();
            let running = running.clone();
            let running_workers = Arc::clone(&running_workers);
            let watchdog = watchdog.clone();
            let thread = thread::Builder::new().name(format!("inference-{number}"));
            workers.threads.push(thread.spawn(move || {
                let mut ending = Ok(());
                let mut work = |engine: &mut dyn Engine| {
                    ending = serve(&pool, engine, &watchdog.0[number]);
                };
                let contained = catch_unwind(AssertUnwindSafe(|| engine.enter(&mut work)));
                let ending = match contained {
                    Ok(()) => ending,
                    Err(panic) => Err(panic_message(panic.as_ref())),
                };
                if let Err(reason) = ending {
                    on_failure(format!("inference worker {number} ended: {reason}"));
                    if running_workers.fetch_sub(1, Ordering::AcqRel) == 1 {
                        pool.queue.close();
                    }
                }
                drop(running);
            })?);
        }
        Ok((workers, watchdog))
    }

    /// Closes the queue, and waits until each thread has finished its forward pass.
    pub(crate) async fn stop(mut self) {
        self.pool.queue.close();
        while self.ended.recv().await.is_some() {}
        for thread in std::mem::take(&mut self.threads) {
            // The thread itself has caught and reported a panic.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.pool.queue.close();
    }
}

/// Works until the queue is closed or the engine fails.
fn serve(pool: &InferencePool, engine: &mut dyn Engine, timer: &BusyTimer) -> Result<(), String> {
    let _registered = WorkerRegistered::at(&pool.queue);
    while let Some(work_item) = pool.queue.take() {
        match work_item {
            WorkItem::Prepare(jobs) => {
                timer.begin(Instant::now());
                prepare_all(pool, jobs);
                timer.end();
            }
            WorkItem::Expire(jobs) => {
                let now = Instant::now();
                for job in jobs {
                    job.finish(Err(InferenceError::Expired), now, now);
                }
            }
            WorkItem::Run(batch, parallelism) => {
                let parallelism = if pool.parallel_is_faster {
                    parallelism
                } else {
                    Parallelism::Single
                };
                let ending = run_batch(pool, engine, batch, parallelism, timer);
                pool.queue.batch_finished();
                ending?;
            }
        }
    }
    Ok(())
}

/// Prepares jobs, those with long texts last. Meanwhile this worker does not count as busy, so that others wake
/// up for new jobs.
fn prepare_all(pool: &InferencePool, jobs: Vec<Job>) {
    if !jobs.iter().any(Job::is_slow_to_prepare) {
        return prepare_some(pool, jobs);
    }
    let (long, short): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(Job::is_slow_to_prepare);
    prepare_some(pool, short);
    let _paused = WorkerPaused::from(&pool.queue);
    for job in long {
        prepare_some(pool, vec![job]);
    }
}

/// Removes a worker from the busy ones until it is dropped.
struct WorkerPaused<'a>(&'a SharedBatchQueue<Job, PreparedJob>);

impl<'a> WorkerPaused<'a> {
    fn from(queue: &'a SharedBatchQueue<Job, PreparedJob>) -> Self {
        queue.unregister_worker();
        Self(queue)
    }
}

impl Drop for WorkerPaused<'_> {
    fn drop(&mut self) {
        self.0.register_worker();
    }
}

/// Counts a worker as busy until it is dropped.
struct WorkerRegistered<'a>(&'a SharedBatchQueue<Job, PreparedJob>);

impl<'a> WorkerRegistered<'a> {
    fn at(queue: &'a SharedBatchQueue<Job, PreparedJob>) -> Self {
        queue.register_worker();
        Self(queue)
    }
}

impl Drop for WorkerRegistered<'_> {
    fn drop(&mut self) {
        self.0.unregister_worker();
    }
}

fn prepare_some(pool: &InferencePool, jobs: Vec<Job>) {
    let count = jobs.len();
    let now = Instant::now();
    let ready: Vec<_> = jobs
        .into_iter()
        // A job whose client has left is not even tokenized.
        .filter(|job| !job.reply.is_closed() && job.deadline > now)
        .filter_map(|job| prepare(pool, job))
        .collect();
    let failed = count - ready.len();
    pool.queue.prepared(ready, failed);
}

/// Tokenizes a text. Replies at once if that fails.
fn prepare(pool: &InferencePool, job: Job) -> Option<ReadyItem<PreparedJob>> {
    let began = Instant::now();
    let input = match (job.input, &pool.task) {
        (JobInput::Tensors(tensors), _) => Ok(PreparedInput::Tensors(tensors)),
        (JobInput::Text(text), ModelTask::Text(model)) => {
            catch_panic(|| Ok(model.tokenizer.tokenize(&text)?)).map(PreparedInput::Tokens)
        }
        (JobInput::TextPair(text, pair), ModelTask::Text(model)) => {
            catch_panic(|| Ok(model.tokenizer.tokenize_pair(&text, &pair)?))
                .map(PreparedInput::Tokens)
        }
        (JobInput::Text(_) | JobInput::TextPair(..), ModelTask::Tensors) => {
            Err(InferenceError::NoTokenizer)
        }
    };
    let ended = Instant::now();
    let job = |input: PreparedInput| PreparedJob {
        // Only tensors still hold the memory of the request.
        reservation: job
            .reservation
            .filter(|_| matches!(input, PreparedInput::Tensors(_))),
        input,
        arrived: job.arrived,
        deadline: job.deadline,
        tokenize: ended.saturating_duration_since(began),
        reply: job.reply,
    };
    match input {
        Ok(input) => Some(ReadyItem {
            token_count: match (&input, &pool.task) {
                (PreparedInput::Tokens(tokens), ModelTask::Text(model)) => {
                    Some(model.computed_tokens(tokens.ids.len()))
                }
                _ => None,
            },
            item: job(input),
        }),
        Err(error) => {
            job(PreparedInput::Tensors(Vec::new())).finish(Err(error), ended, ended);
            None
        }
    }
}
