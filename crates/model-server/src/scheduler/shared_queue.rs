use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::scheduler::{
    batch_queue::{BatchQueue, PushError, QueueItem, ReadyItem, WorkItem},
    batching_policy::BatchingPolicy,
};

/// A [`BatchQueue`] for any number of threads; pushing never waits.
#[derive(Debug)]
pub(crate) struct SharedBatchQueue<R, P> {
    queue: Mutex<QueueState<R, P>>,
    changed: Condvar,
    /// How much has to wait before one more worker is woken, while others are awake.
    wake_threshold: usize,
}

/// A line, and the workers at it.
#[derive(Debug)]
struct QueueState<R, P> {
    queue: BatchQueue<R, P>,
    /// How many are busy.
    busy: usize,
    idle: usize,
    /// How many of those that sleep were woken, and have not come yet.
    woken: usize,
}

impl<R: QueueItem, P: QueueItem> QueueState<R, P> {
    /// Whether to wake one more, who counts as woken from now on.
    fn reserve_wakeup(&mut self, wake_threshold: usize) -> bool {
        let depth = self.queue.depth();
        let needed = depth > 0 && (self.busy + self.woken == 0 || depth >= wake_threshold);
        let reserve_wakeup = needed && self.woken < self.idle;
        self.woken += usize::from(reserve_wakeup);
        reserve_wakeup
    }
}

impl<R: QueueItem, P: QueueItem> SharedBatchQueue<R, P> {
    /// An empty queue in which at most `capacity` items wait. While a worker is awake, another
    /// is woken only when at least `worth_waking` items wait: for a model that takes microseconds,
    /// waking somebody costs more than doing the work.
    pub(crate) fn new(capacity: usize, policy: BatchingPolicy, wake_threshold: usize) -> Self {
        let state = QueueState {
            queue: BatchQueue::new(capacity, policy),
            busy: 0,
            idle: 0,
            woken: 0,
        };
        Self {
            queue: Mutex::new(state),
            changed: Condvar::new(),
            wake_threshold,
        }
    }

    /// How many items wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().queue.depth()
    }

    /// Adds all of the items at the end, or none.
    pub(crate) fn push(&self, items: impl ExactSizeIterator<Item = R>) -> Result<(), PushError> {
        let mut state = self.lock();
        state.queue.push(items)?;
        let wake = state.reserve_wakeup(self.wake_threshold);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// What to do next, waiting for it if need be; `None` once the queue is closed.
    pub(crate) fn take(&self) -> Option<WorkItem<R, P>> {
        let mut state = self.lock();
        loop {
            if state.queue.is_closed() {
                return None;
            }
            if let Some(task) = state.queue.poll(Instant::now()) {
                return Some(task);
            }
            state.busy -= 1;
            state.idle += 1;
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            state.busy += 1;
            // Whoever wakes by itself, as the operating system allows, comes for one that was called.
            state.woken = state.woken.saturating_sub(1);
        }
    }

    /// One more worker takes tasks from now on.
    pub(crate) fn register_worker(&self) {
        self.lock().busy += 1;
    }

    /// A worker takes no more tasks, whatever became of its last one.
    pub(crate) fn unregister_worker(&self) {
        let mut state = self.lock();
        state.busy -= 1;
        // What it would have done falls to another.
        let wake = state.reserve_wakeup(self.wake_threshold);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Takes items back after they were prepared; `failed` of them were answered already.
    pub(crate) fn prepared(&self, items: Vec<ReadyItem<P>>, failed: usize) {
        let mut state = self.lock();
        state.queue.prepared(items, failed);
        // The first batch is for the calling worker itself.
        let wake = state.queue.has_more_ready() && state.reserve_wakeup(self.wake_threshold);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// A batch left the model.
    pub(crate) fn batch_finished(&self) {
        self.lock().queue.batch_finished();
    }

    /// Ends the queue: what waits is dropped, and every waiting thread is sent home.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let waiting = state.queue.close();
        drop(state);
        self.changed.notify_all();
        // Outside the lock: dropping an item may wake whoever waits for its answer.
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<R, P>> {
        // No step under the lock can panic half done, so a panic elsewhere leaves it whole.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::scheduler::batch_queue::tests::{Item, POLICY, item, queue_of};

    #[test]
    fn closing_drops_what_waits_and_wakes_every_thread() {
        let queue: SharedBatchQueue<Item, Item> = SharedBatchQueue::new(1, POLICY, 1);
        queue.register_worker();
        queue.register_worker();
        std::thread::scope(|scope| {
            let waiting = [
                scope.spawn(|| queue.take().is_none()),
                scope.spawn(|| queue.take().is_none()),
            ];
            queue.close();
            for thread in waiting {
                assert!(thread.join().unwrap());
            }
        });
        assert_eq!(queue.push(std::iter::once(item(1))), Err(PushError::Closed));
    }

    #[test]
    fn nobody_is_woken_for_what_the_worker_on_its_way_will_do() {
        let mut state = QueueState {
            queue: queue_of(8, &[10]),
            busy: 0,
            idle: 2,
            woken: 0,
        };
        assert!(state.reserve_wakeup(3));
        assert!(!state.reserve_wakeup(3), "one is on its way");
        state.queue.push([item(10), item(10)].into_iter()).unwrap();
        assert!(state.reserve_wakeup(3), "there is enough for two");
        assert!(!state.reserve_wakeup(3), "nobody is left to be woken");
    }

    #[test]
    fn an_item_wakes_a_sleeping_worker_though_another_is_worth_waking_only_for_many() {
        let queue: SharedBatchQueue<Item, Item> = SharedBatchQueue::new(8, POLICY, 8);
        queue.register_worker();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| matches!(queue.take(), Some(WorkItem::Prepare(_))));
            queue.push(std::iter::once(item(1))).unwrap();
            assert!(worker.join().unwrap());
        });
    }
}
