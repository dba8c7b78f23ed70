use std::{collections::VecDeque, time::Instant};

use crate::{backend::engine::Parallelism, scheduler::batching_policy::BatchingPolicy};

/// How many items are prepared at once: enough to find some of similar length, and so few that the first one
/// does not wait long.
const MAX_PREPARED: usize = 32;

/// Why the queue did not accept items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PushError {
    /// The queue would exceed its capacity.
    Full,
    /// The queue is closed.
    Closed,
}

/// What the queue needs to know about an item.
pub(crate) trait QueueItem {
    /// The time at which the client stops waiting.
    fn deadline(&self) -> Instant;
    /// Whether the client has left.
    fn is_abandoned(&self) -> bool;
}

/// An item that is ready for a forward pass.
#[derive(Debug)]
pub(crate) struct ReadyItem<I> {
    /// Its number of tokens; `None` for an item that cannot share a forward pass.
    pub(crate) token_count: Option<usize>,
    /// The item.
    pub(crate) item: I,
}

/// What a worker does next.
#[derive(Debug)]
pub(crate) enum WorkItem<R, P> {
    /// Prepare these items, and return them with [`BatchQueue::prepared`].
    Prepare(Vec<R>),
    /// Run these items in one forward pass, and then call [`BatchQueue::batch_finished`].
    Run(Vec<P>, Parallelism),
    /// Report these items as expired: their client has left, or their deadline has passed.
    Expire(Vec<P>),
}

/// Decides which items run next, and together. It has no threads and no clock: `SharedBatchQueue` adds them.
///
/// Items arrive raw. Any free worker prepares them, which determines their length, and they leave in batches.
/// At most `capacity` items wait, raw and ready together.
#[derive(Debug)]
pub(crate) struct BatchQueue<R, P> {
    capacity: usize,
    policy: BatchingPolicy,
    raw: VecDeque<R>,
    ready: VecDeque<ReadyItem<P>>,
    /// Items that a worker is preparing.
    preparing: usize,
    running: usize,
    closed: bool,
}

impl<R: QueueItem, P: QueueItem> BatchQueue<R, P> {
    /// Creates an empty queue for at most `capacity` items.
    pub(crate) fn new(capacity: usize, policy: BatchingPolicy) -> Self {
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

    /// The number of waiting items.
    pub(crate) fn depth(&self) -> usize {
        self.raw.len() + self.preparing + self.ready.len()
    }

    /// Appends all items, or none.
    pub(crate) fn push(
        &mut self,
        items: impl ExactSizeIterator<Item = R>,
    ) -> Result<(), PushError> {
        if self.closed {
            return Err(PushError::Closed);
        }
        if self.depth() + items.len() > self.capacity {
            return Err(PushError::Full);
        }
        self.raw.extend(items);
        Ok(())
    }

    /// Returns what to do at time `now`, or `None` if no item waits.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<WorkItem<R, P>> {
        if !self.raw.is_empty() && self.ready.len() < MAX_PREPARED {
            let some: Vec<R> = self.raw.drain(..self.raw.len().min(MAX_PREPARED)).collect();
            self.preparing += some.len();
            return Some(WorkItem::Prepare(some));
        }
        let take_expired = self.take_expired(now);
        if !take_expired.is_empty() {
            return Some(WorkItem::Expire(take_expired));
        }
        let first = self.ready.front()?;
        let batch = if first.token_count.is_none() {
            self.ready.pop_front().into_iter().collect()
        } else {
            self.take_batch()
        };
        let parallelism = if self.running == 0 && self.depth() == 0 {
            Parallelism::All
        } else {
            Parallelism::Single
        };
        self.running += 1;
        Some(WorkItem::Run(
            batch.into_iter().map(|it| it.item).collect(),
            parallelism,
        ))
    }

    /// Takes prepared items back. `failed` more items were answered while they were prepared.
    pub(crate) fn prepared(&mut self, items: Vec<ReadyItem<P>>, failed: usize) {
        self.preparing -= items.len() + failed;
        if !self.closed {
            self.ready.extend(items);
        }
    }

    /// Whether more than one item is ready.
    pub(super) fn has_more_ready(&self) -> bool {
        self.ready.len() > 1
    }

    /// Whether [`Self::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Refuses all further items, and returns those that wait.
    pub(super) fn close(&mut self) -> (VecDeque<R>, VecDeque<ReadyItem<P>>) {
        self.closed = true;
        (
            std::mem::take(&mut self.raw),
            std::mem::take(&mut self.ready),
        )
    }

    /// Records that a forward pass ended.
    pub(crate) fn batch_finished(&mut self) {
        self.running -= 1;
    }

    /// Removes items whose client has left or whose deadline has passed, so that they cost no inference.
    fn take_expired(&mut self, now: Instant) -> Vec<P> {
        let gone = |it: &P| it.is_abandoned() || it.deadline() <= now;
        if !self.ready.iter().any(|it| gone(&it.item)) {
            return Vec::new();
        }
        let (take_expired, wanted) = std::mem::take(&mut self.ready)
            .into_iter()
            .partition::<VecDeque<_>, _>(|it| gone(&it.item));
        self.ready = wanted;
        take_expired.into_iter().map(|it| it.item).collect()
    }

    fn take_batch(&mut self) -> Vec<ReadyItem<P>> {
        let (places, lengths): (Vec<usize>, Vec<usize>) = self
            .ready
            .iter()
            .enumerate()
            .filter_map(|(place, it)| Some((place, it.token_count?)))
            .unzip();
        let chosen: Vec<usize> = self
            .policy
            .choose(&lengths)
            .into_iter()
            .map(|at| places[at])
            .collect();
        // Touches only the items up to the last chosen one, because the queue may be long.
        let end = chosen.last().map_or(0, |last| last + 1);
        let mut batch = Vec::with_capacity(chosen.len());
        let mut passed_over = Vec::new();
        for (place, item) in self.ready.drain(..end).enumerate() {
            if chosen.get(batch.len()) == Some(&place) {
                batch.push(item);
            } else {
                passed_over.push(item);
            }
        }
        for item in passed_over.into_iter().rev() {
            self.ready.push_front(item);
        }
        batch
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;

    /// An item of `length` tokens.
    #[derive(Debug, Clone, Copy, PartialEq)]
    pub(crate) struct Item {
        pub(crate) length: usize,
        pub(crate) deadline: Instant,
        pub(crate) abandoned: bool,
    }

    impl QueueItem for Item {
        fn deadline(&self) -> Instant {
            self.deadline
        }

        fn is_abandoned(&self) -> bool {
            self.abandoned
        }
    }

    pub(crate) const POLICY: BatchingPolicy = BatchingPolicy {
        max_texts: 4,
        max_tokens: 100,
        max_padding: 4,
    };

    pub(crate) fn item(length: usize) -> Item {
        Item {
            length,
            deadline: Instant::now() + Duration::from_mins(1),
            abandoned: false,
        }
    }

    pub(crate) fn queue_of(capacity: usize, lengths: &[usize]) -> BatchQueue<Item, Item> {
        let mut queue = BatchQueue::new(capacity, POLICY);
        let items: Vec<_> = lengths.iter().map(|length| item(*length)).collect();
        queue.push(items.into_iter()).unwrap();
        queue
    }

    /// Prepares all raw items, and returns the lengths of the next batch.
    fn batch(queue: &mut BatchQueue<Item, Item>) -> Option<(Vec<usize>, Parallelism)> {
        loop {
            match queue.poll(Instant::now())? {
                WorkItem::Prepare(raw) => {
                    let ready = raw.into_iter().map(|item| ReadyItem {
                        token_count: (item.length > 0).then_some(item.length),
                        item,
                    });
                    queue.prepared(ready.collect(), 0);
                }
                WorkItem::Run(items, parallelism) => {
                    let lengths = items.iter().map(|item| item.length).collect();
                    return Some((lengths, parallelism));
                }
                WorkItem::Expire(_) => {}
            }
        }
    }

    #[test]
    fn texts_of_similar_length_share_a_batch_oldest_first() {
        let mut queue = queue_of(8, &[10, 50, 10, 50]);
        assert_eq!(batch(&mut queue).unwrap().0, [10, 10]);
        assert_eq!(batch(&mut queue).unwrap().0, [50, 50]);
        assert_eq!(batch(&mut queue), None);
    }

    #[test]
    fn skipped_items_keep_their_position() {
        let mut queue = queue_of(8, &[10, 40, 10, 90, 41, 10]);
        assert_eq!(batch(&mut queue).unwrap().0, [10, 10, 10]);
        assert_eq!(batch(&mut queue).unwrap().0, [40, 41]);
        assert_eq!(batch(&mut queue).unwrap().0, [90]);
    }

    #[test]
    fn items_without_length_run_alone_in_order() {
        let mut queue = queue_of(8, &[10, 0, 10]);
        assert_eq!(batch(&mut queue).unwrap().0, [10, 10]);
        assert_eq!(batch(&mut queue).unwrap().0, [0]);
    }

    #[test]
    fn single_batch_uses_all_threads() {
        let mut queue = queue_of(8, &[10]);
        assert_eq!(batch(&mut queue).unwrap().1, Parallelism::All);
        queue.push(std::iter::once(item(10))).unwrap();
        assert_eq!(
            batch(&mut queue).unwrap().1,
            Parallelism::Single,
            "another one runs"
        );
        queue.batch_finished();
        queue.batch_finished();
        queue.push([item(10), item(90)].into_iter()).unwrap();
        assert_eq!(
            batch(&mut queue).unwrap().1,
            Parallelism::Single,
            "another one waits"
        );
    }

    #[test]
    fn push_accepts_all_items_or_none() {
        let mut queue = queue_of(3, &[10, 10]);
        let two = [item(10), item(10)];
        assert_eq!(queue.push(two.into_iter()), Err(PushError::Full));
        assert_eq!(queue.depth(), 2);
        queue.push(std::iter::once(item(10))).unwrap();
        assert_eq!(queue.depth(), 3);
    }

    #[test]
    pub(crate) fn items_count_as_waiting_while_prepared() {
        let mut queue = queue_of(2, &[10, 10]);
        assert!(matches!(
            queue.poll(Instant::now()),
            Some(WorkItem::Prepare(_))
        ));
        assert_eq!(queue.depth(), 2);
        assert_eq!(queue.push(std::iter::once(item(1))), Err(PushError::Full));
        queue.prepared(Vec::new(), 2);
        assert_eq!(queue.depth(), 0);
    }

    #[test]
    fn expired_and_abandoned_items_never_run() {
        let mut queue = BatchQueue::new(8, POLICY);
        let late = Item {
            deadline: Instant::now(),
            ..item(10)
        };
        let abandoned = Item {
            abandoned: true,
            ..item(10)
        };
        queue.push([late, abandoned, item(10)].into_iter()).unwrap();
        assert_eq!(batch(&mut queue).unwrap().0, [10]);
        assert_eq!(batch(&mut queue), None);
    }
}
