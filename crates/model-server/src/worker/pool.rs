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
};

use tokio::sync::{mpsc, oneshot};

use super::{Classification, Classifier, ClassifyError, Queue};
use crate::engine::Engine;

/// One text that waits for its answer.
#[derive(Debug)]
pub(crate) struct Job {
    /// What to classify.
    pub(crate) text: String,
    /// Where the answer goes. A job whose asker has left is dropped unanswered.
    pub(crate) answer: oneshot::Sender<Result<Classification, ClassifyError>>,
}

/// The worker threads. They end when their queue is closed.
pub(crate) struct Workers {
    queue: Arc<Queue<Job>>,
    threads: Vec<thread::JoinHandle<()>>,
    /// Closed when the last thread has ended; nothing is ever sent.
    ended: mpsc::Receiver<Infallible>,
}

impl Workers {
    /// Starts one thread per engine.
    ///
    /// A worker that cannot go on calls `on_failure` with the reason, and leaves its texts to
    /// the others; the last one closes the queue, so that no text waits for nobody.
    pub(crate) fn start<E: Engine>(
        classifier: &Arc<Classifier>,
        engines: Vec<E>,
        queue: Arc<Queue<Job>>,
        on_failure: impl Fn(String) + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (running, ended) = mpsc::channel(1);
        let able = Arc::new(AtomicUsize::new(engines.len()));
        let mut workers = Self {
            queue,
            threads: Vec::with_capacity(engines.len()),
            ended,
        };
        for (number, mut engine) in engines.into_iter().enumerate() {
            let classifier = Arc::clone(classifier);
            let queue = Arc::clone(&workers.queue);
            let on_failure = on_failure.clone();
            let running = running.clone();
            let able = Arc::clone(&able);
            let thread = thread::Builder::new().name(format!("inference-{number}"));
            workers.threads.push(thread.spawn(move || {
                let work = || engine.enter(|engine| answer_texts(&classifier, engine, &queue));
                let ending = catch_unwind(AssertUnwindSafe(work))
                    .unwrap_or_else(|panic| Err(panic_message(panic.as_ref())));
                if let Err(reason) = ending {
                    on_failure(format!("inference worker {number} ended: {reason}"));
                    if able.fetch_sub(1, Ordering::AcqRel) == 1 {
                        queue.close();
                    }
                }
                drop(running);
            })?);
        }
        Ok(workers)
    }

    /// Closes the queue and waits for the threads, each of which first ends its forward pass.
    pub(crate) async fn stop(mut self) {
        self.queue.close();
        while self.ended.recv().await.is_some() {}
        for thread in std::mem::take(&mut self.threads) {
            // A panic was caught and reported in the thread itself.
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Answers texts until the queue is closed, or until the engine can no longer.
fn answer_texts(
    classifier: &Classifier,
    engine: &mut impl Engine,
    queue: &Queue<Job>,
) -> Result<(), String> {
    while let Some(Job { text, answer }) = queue.pop() {
        if answer.is_closed() {
            continue;
        }
        match contain(|| classifier.classify(engine, &text)) {
            Err(ClassifyError::Panicked(reason)) => {
                // Whoever asked may have gone meanwhile; here and below, that is no failure.
                let _ = answer.send(Err(ClassifyError::Panicked(reason.clone())));
                // After a panic the engine has to prove itself, or it would be healthy and dead.
                contain(|| classifier.warm_up(engine))
                    .map_err(|error| format!("after the panic {reason:?}: {error}"))?;
            }
            result => {
                let _ = answer.send(result);
            }
        }
    }
    Ok(())
}

/// Turns a panic of the engine into an error.
fn contain<T>(work: impl FnOnce() -> Result<T, ClassifyError>) -> Result<T, ClassifyError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(ClassifyError::Panicked(panic_message(panic.as_ref()))))
}

/// The text of a panic, where it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
