use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::scheduler::{
    batch_queue::{BatchQueue, PushError, QueueItem, ReadyItem, WorkItem},
    batching_policy::BatchingPolicy,
};

/// A [`BatchQueue`] for several threads. Pushing never blocks on the workers.
#[derive(Debug)]
pub(crate) struct SharedBatchQueue<R, P> {
    queue: Mutex<QueueState<R, P>>,
    changed: Condvar,
    /// How many items must wait before another worker is woken while one is busy.
    wake_threshold: usize,
}

/// The queue and the state of its workers.
#[derive(Debug)]
struct QueueState<R, P> {
    queue: BatchQueue<R, P>,
    /// Number of busy workers.
    busy: usize,
    idle: usize,
    /// Number of idle workers that were woken and have not run yet.
    woken: usize,
}

impl<R: QueueItem, P: QueueItem> QueueState<R, P> {
    /// Returns whether to wake one more worker, and counts it as woken.
    fn reserve_wakeup(&mut self, wake_threshold: usize) -> bool {
        let depth = self.queue.depth();
        let needed = depth > 0 && (self.busy + self.woken == 0 || depth >= wake_threshold);
        let reserve_wakeup = needed && self.woken < self.idle;
        self.woken += usize::from(reserve_wakeup);
        reserve_wakeup
    }
}

impl<R: QueueItem, P: QueueItem> SharedBatchQueue<R, P> {
    /// Creates an empty queue for at most `capacity` items.
    ///
    /// While a worker is busy, another is woken only when at least `wake_threshold` items wait: for a model
    /// that takes microseconds, waking a thread costs more than the work.
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

    /// The number of waiting items.
    pub(crate) fn depth(&self) -> usize {
        self.lock().queue.depth()
    }

    /// Appends all items, or none.
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

    /// Returns what to do next, and blocks until there is something. Returns `None` once the queue is closed.
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
            // A spurious wakeup counts as one that was requested.
            state.woken = state.woken.saturating_sub(1);
        }
    }

    /// Counts one more busy worker.
    pub(crate) fn register_worker(&self) {
        self.lock().busy += 1;
    }

    /// Counts one busy worker less.
    pub(crate) fn unregister_worker(&self) {
        let mut state = self.lock();
        state.busy -= 1;
        // Another worker takes over what this one leaves.
        let wake = state.reserve_wakeup(self.wake_threshold);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Takes prepared items back. `failed` more items were answered while they were prepared.
    pub(crate) fn prepared(&self, items: Vec<ReadyItem<P>>, failed: usize) {
        let mut state = self.lock();
        state.queue.prepared(items, failed);
        // The calling worker takes the first batch itself.
        let wake = state.queue.has_more_ready() && state.reserve_wakeup(self.wake_threshold);
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Records that a forward pass ended.
    pub(crate) fn batch_finished(&self) {
        self.lock().queue.batch_finished();
    }

    /// Closes the queue, drops the waiting items, and makes every blocked `take` return.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let waiting = state.queue.close();
        drop(state);
        self.changed.notify_all();
        // Outside the lock, because dropping an item may wake the task that waits for it.
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<R, P>> {
        // No critical section can panic halfway, so the state of a poisoned lock is valid.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::scheduler::batch_queue::tests::{Item, POLICY, item, queue_of};

    #[test]
    fn close_drops_items_and_wakes_all_workers() {
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
    fn no_second_worker_wakes_for_the_same_item() {
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
    fn item_wakes_idle_worker_below_the_threshold_if_none_is_busy() {
        let queue: SharedBatchQueue<Item, Item> = SharedBatchQueue::new(8, POLICY, 8);
        queue.register_worker();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| matches!(queue.take(), Some(WorkItem::Prepare(_))));
            queue.push(std::iter::once(item(1))).unwrap();
            assert!(worker.join().unwrap());
        });
    }
}
