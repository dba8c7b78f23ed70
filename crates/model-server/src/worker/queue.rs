use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Why an item was not taken into a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    /// As many items wait as may wait.
    Full,
    /// Nothing is taken out of this queue any more.
    Closed,
}

/// A bounded first-in-first-out queue for any number of threads; pushing never waits.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    capacity: usize,
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    /// An empty queue in which at most `capacity` items wait.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Adds an item at the end.
    pub(crate) fn push(&self, item: T) -> Result<(), PushError> {
        let mut inner = self.lock();
        if inner.closed {
            return Err(PushError::Closed);
        }
        if inner.items.len() >= self.capacity {
            return Err(PushError::Full);
        }
        inner.items.push_back(item);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the first item, waiting for one if need be; `None` once the queue is closed.
    pub(crate) fn pop(&self) -> Option<T> {
        let waiting = self
            .changed
            .wait_while(self.lock(), |inner| inner.items.is_empty() && !inner.closed);
        waiting
            .unwrap_or_else(PoisonError::into_inner)
            .items
            .pop_front()
    }

    /// Ends the queue: what waits is dropped, and every waiting thread is sent home.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let abandoned = std::mem::take(&mut inner.items);
        drop(inner);
        self.changed.notify_all();
        // Outside the lock: dropping an item may wake whoever waits for its answer.
        drop(abandoned);
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // Every change under the lock is a single step, so a panic leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_come_out_in_the_order_they_went_in() {
        let queue = Queue::new(2);
        queue.push(1).unwrap();
        queue.push(2).unwrap();
        assert_eq!((queue.pop(), queue.pop()), (Some(1), Some(2)));
    }

    #[test]
    fn a_full_queue_refuses_and_takes_again_once_there_is_room() {
        let queue = Queue::new(1);
        queue.push(1).unwrap();
        assert_eq!(queue.push(2), Err(PushError::Full));
        queue.pop();
        assert_eq!(queue.push(2), Ok(()));
    }

    #[test]
    fn closing_drops_what_waits_and_wakes_every_thread() {
        let queue: Queue<i32> = Queue::new(1);
        std::thread::scope(|scope| {
            let waiting = [scope.spawn(|| queue.pop()), scope.spawn(|| queue.pop())];
            queue.close();
            for thread in waiting {
                assert_eq!(thread.join().unwrap(), None);
            }
        });
        assert_eq!(queue.push(1), Err(PushError::Closed));
    }
}
