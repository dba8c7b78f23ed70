use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::Policy;
use crate::engine::Spread;

/// How many items are prepared at once: enough to find some of like length, few enough that the
/// first of them does not wait long.
const PREPARED_AT_ONCE: usize = 32;

/// Why items were not taken into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    /// More would wait than may wait.
    Full,
    /// Nothing is taken out of this queue any more.
    Closed,
}

/// Something that waits, as far as the queue has to know it.
pub(crate) trait Waiting {
    /// When its answer comes too late.
    fn deadline(&self) -> Instant;
    /// Whether nobody waits for the answer any more.
    fn is_abandoned(&self) -> bool;
}

/// An item that is ready for the model. Those without a length go alone.
#[derive(Debug)]
pub(crate) struct Prepared<I> {
    /// How many tokens it has; `None` for what cannot share a forward pass.
    pub(crate) length: Option<usize>,
    /// The item.
    pub(crate) item: I,
}

/// What a worker has to do next.
#[derive(Debug)]
pub(crate) enum Task<R, P> {
    /// Prepare these, and give them back with [`Queue::prepared`].
    Prepare(Vec<R>),
    /// Take these through the model together, and call [`Queue::done`] afterwards.
    Run(Vec<P>, Spread),
    /// Nobody wants these any more, or they are too late: answer them so.
    Drop(Vec<P>),
}

/// What waits, and which of it comes next. No threads, no clock: the pure half of [`Queue`].
///
/// Items arrive raw, are prepared by whichever worker is free (which gives them a length), and
/// leave in batches. At most `capacity` of them wait, raw and prepared together.
#[derive(Debug)]
pub(crate) struct Line<R, P> {
    capacity: usize,
    policy: Policy,
    raw: VecDeque<R>,
    ready: VecDeque<Prepared<P>>,
    /// Taken out to be prepared, and not back yet.
    preparing: usize,
    running: usize,
    closed: bool,
}

impl<R: Waiting, P: Waiting> Line<R, P> {
    /// An empty line in which at most `capacity` items wait.
    pub(crate) fn new(capacity: usize, policy: Policy) -> Self {
        Self {
            capacity,
            policy,
            raw: VecDeque::new(),
            ready: VecDeque::new(),
            preparing: 0,
            running: 0,
            closed: false,
        }
    }

    /// How many items wait.
    pub(crate) fn depth(&self) -> usize {
        self.raw.len() + self.preparing + self.ready.len()
    }

    /// Adds all of the items at the end, or none.
    pub(crate) fn push(&mut self, items: impl ExactSizeIterator<Item = R>) -> Result<(), PushError> {
        if self.closed {
            return Err(PushError::Closed);
        }
        if self.depth() + items.len() > self.capacity {
            return Err(PushError::Full);
        }
        self.raw.extend(items);
        Ok(())
    }

    /// What to do next at the time `now`; `None` if there is nothing.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Task<R, P>> {
        if !self.raw.is_empty() && self.ready.len() < PREPARED_AT_ONCE {
            let some: Vec<R> = self
                .raw
                .drain(..self.raw.len().min(PREPARED_AT_ONCE))
                .collect();
            self.preparing += some.len();
            return Some(Task::Prepare(some));
        }
        let unwanted = self.unwanted(now);
        if !unwanted.is_empty() {
            return Some(Task::Drop(unwanted));
        }
        let first = self.ready.front()?;
        let batch = if first.length.is_none() {
            self.ready.pop_front().into_iter().collect()
        } else {
            self.take_alike()
        };
        let spread = if self.running == 0 && self.depth() == 0 {
            Spread::All
        } else {
            Spread::Alone
        };
        self.running += 1;
        Some(Task::Run(
            batch.into_iter().map(|it| it.item).collect(),
            spread,
        ))
    }

    /// Takes items back after they were prepared; `failed` of them were answered already.
    pub(crate) fn prepared(&mut self, items: Vec<Prepared<P>>, failed: usize) {
        self.preparing -= items.len() + failed;
        if !self.closed {
            self.ready.extend(items);
        }
    }

    /// A batch left the model.
    pub(crate) fn done(&mut self) {
        self.running -= 1;
    }

    /// Takes out what nobody waits for, or what comes too late. Nothing is asked twice: the
    /// answer to a client that left, or whose time is up, costs no inference.
    fn unwanted(&mut self, now: Instant) -> Vec<P> {
        let gone = |it: &P| it.is_abandoned() || it.deadline() <= now;
        if !self.ready.iter().any(|it| gone(&it.item)) {
            return Vec::new();
        }
        let (unwanted, wanted) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition::<VecDeque<_>, _>(|it| gone(&it.item));
        self.ready = wanted;
        unwanted.into_iter().map(|it| it.item).collect()
    }

    fn take_alike(&mut self) -> Vec<Prepared<P>> {
        let (places, lengths): (Vec<usize>, Vec<usize>) = self
            .ready
            .iter()
            .enumerate()
            .filter_map(|(place, it)| Some((place, it.length?)))
            .unzip();
        let chosen = self.policy.choose(&lengths);
        // From the back, so that the places of the others stay what they are.
        let mut batch: Vec<_> = chosen
            .into_iter()
            .rev()
            .filter_map(|at| self.ready.remove(places[at]))
            .collect();
        batch.reverse();
        batch
    }
}

/// A [`Line`] for any number of threads; pushing never waits.
#[derive(Debug)]
pub(crate) struct Queue<R, P> {
    line: Mutex<Line<R, P>>,
    changed: Condvar,
}

impl<R: Waiting, P: Waiting> Queue<R, P> {
    /// An empty queue in which at most `capacity` items wait.
    pub(crate) fn new(capacity: usize, policy: Policy) -> Self {
        Self {
            line: Mutex::new(Line::new(capacity, policy)),
            changed: Condvar::new(),
        }
    }

    /// How many items wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().depth()
    }

    /// Adds all of the items at the end, or none.
    pub(crate) fn push(&self, items: impl ExactSizeIterator<Item = R>) -> Result<(), PushError> {
        self.lock().push(items)?;
        self.changed.notify_one();
        Ok(())
    }

    /// What to do next, waiting for it if need be; `None` once the queue is closed.
    pub(crate) fn take(&self) -> Option<Task<R, P>> {
        let mut line = self.lock();
        loop {
            if line.closed {
                return None;
            }
            if let Some(task) = line.poll(Instant::now()) {
                return Some(task);
            }
            line = self
                .changed
                .wait(line)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes items back after they were prepared; `failed` of them were answered already.
    pub(crate) fn prepared(&self, items: Vec<Prepared<P>>, failed: usize) {
        let several = items.len() > 1;
        self.lock().prepared(items, failed);
        // One batch is for the calling worker itself; there may be more.
        if several {
            self.changed.notify_one();
        }
    }

    /// A batch left the model.
    pub(crate) fn done(&self) {
        self.lock().done();
    }

    /// Ends the queue: what waits is dropped, and every waiting thread is sent home.
    pub(crate) fn close(&self) {
        let mut line = self.lock();
        line.closed = true;
        let raw = std::mem::take(&mut line.raw);
        let ready = std::mem::take(&mut line.ready);
        drop(line);
        self.changed.notify_all();
        // Outside the lock: dropping an item may wake whoever waits for its answer.
        drop((raw, ready));
    }

    fn lock(&self) -> MutexGuard<'_, Line<R, P>> {
        // No step under the lock can panic half done, so a panic elsewhere leaves it whole.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
