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

    /// Whether there is more than one item for the model.
    fn batches_wait(&self) -> bool {
        self.ready.len() > 1
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
        let chosen: Vec<usize> = self
            .policy
            .choose(&lengths)
            .into_iter()
            .map(|at| places[at])
            .collect();
        // Only what stands before the last of them is touched: the line may be long.
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

/// A [`Line`] for any number of threads; pushing never waits.
#[derive(Debug)]
pub(crate) struct Queue<R, P> {
    line: Mutex<Crew<R, P>>,
    changed: Condvar,
    /// How much has to wait before one more worker is woken, while others are awake.
    worth_waking: usize,
}

/// A line, and the workers at it.
#[derive(Debug)]
struct Crew<R, P> {
    line: Line<R, P>,
    /// How many are busy.
    awake: usize,
    asleep: usize,
    /// How many of those that sleep were woken, and have not come yet.
    called: usize,
}

impl<R: Waiting, P: Waiting> Crew<R, P> {
    /// Whether to wake one more, who counts as woken from now on.
    fn call(&mut self, worth_waking: usize) -> bool {
        let depth = self.line.depth();
        let needed = depth > 0 && (self.awake + self.called == 0 || depth >= worth_waking);
        let call = needed && self.called < self.asleep;
        self.called += usize::from(call);
        call
    }
}

impl<R: Waiting, P: Waiting> Queue<R, P> {
    /// An empty queue in which at most `capacity` items wait. While a worker is awake, another
    /// is woken only when at least `worth_waking` items wait: for a model that takes microseconds,
    /// waking somebody costs more than doing the work.
    pub(crate) fn new(capacity: usize, policy: Policy, worth_waking: usize) -> Self {
        let crew = Crew {
            line: Line::new(capacity, policy),
            awake: 0,
            asleep: 0,
            called: 0,
        };
        Self {
            line: Mutex::new(crew),
            changed: Condvar::new(),
            worth_waking,
        }
    }

    /// How many items wait.
    pub(crate) fn depth(&self) -> usize {
        self.lock().line.depth()
    }

    /// Adds all of the items at the end, or none.
    pub(crate) fn push(&self, items: impl ExactSizeIterator<Item = R>) -> Result<(), PushError> {
        let mut crew = self.lock();
        crew.line.push(items)?;
        let wake = crew.call(self.worth_waking);
        drop(crew);
        if wake {
            self.changed.notify_one();
        }
        Ok(())
    }

    /// What to do next, waiting for it if need be; `None` once the queue is closed.
    pub(crate) fn take(&self) -> Option<Task<R, P>> {
        let mut crew = self.lock();
        loop {
            if crew.line.closed {
                return None;
            }
            if let Some(task) = crew.line.poll(Instant::now()) {
                return Some(task);
            }
            crew.awake -= 1;
            crew.asleep += 1;
            crew = self
                .changed
                .wait(crew)
                .unwrap_or_else(PoisonError::into_inner);
            crew.asleep -= 1;
            crew.awake += 1;
            // Whoever wakes by itself, as the operating system allows, comes for one that was called.
            crew.called = crew.called.saturating_sub(1);
        }
    }

    /// One more worker takes tasks from now on.
    pub(crate) fn enter(&self) {
        self.lock().awake += 1;
    }

    /// A worker takes no more tasks, whatever became of its last one.
    pub(crate) fn leave(&self) {
        let mut crew = self.lock();
        crew.awake -= 1;
        // What it would have done falls to another.
        let wake = crew.call(self.worth_waking);
        drop(crew);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Takes items back after they were prepared; `failed` of them were answered already.
    pub(crate) fn prepared(&self, items: Vec<Prepared<P>>, failed: usize) {
        let mut crew = self.lock();
        crew.line.prepared(items, failed);
        // The first batch is for the calling worker itself.
        let wake = crew.line.batches_wait() && crew.call(self.worth_waking);
        drop(crew);
        if wake {
            self.changed.notify_one();
        }
    }

    /// A batch left the model.
    pub(crate) fn done(&self) {
        self.lock().line.done();
    }

    /// Ends the queue: what waits is dropped, and every waiting thread is sent home.
    pub(crate) fn close(&self) {
        let mut crew = self.lock();
        crew.line.closed = true;
        let raw = std::mem::take(&mut crew.line.raw);
        let ready = std::mem::take(&mut crew.line.ready);
        drop(crew);
        self.changed.notify_all();
        // Outside the lock: dropping an item may wake whoever waits for its answer.
        drop((raw, ready));
    }

    fn lock(&self) -> MutexGuard<'_, Crew<R, P>> {
        // No step under the lock can panic half done, so a panic elsewhere leaves it whole.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// An item of so many tokens.
    #[derive(Debug, Clone, Copy, PartialEq)]
    struct Item {
        length: usize,
        deadline: Instant,
        abandoned: bool,
    }

    impl Waiting for Item {
        fn deadline(&self) -> Instant {
            self.deadline
        }

        fn is_abandoned(&self) -> bool {
            self.abandoned
        }
    }

    const POLICY: Policy = Policy {
        texts: 4,
        tokens: 100,
        padding: 4,
    };

    fn item(length: usize) -> Item {
        Item {
            length,
            deadline: Instant::now() + Duration::from_mins(1),
            abandoned: false,
        }
    }

    fn line_of(capacity: usize, lengths: &[usize]) -> Line<Item, Item> {
        let mut line = Line::new(capacity, POLICY);
        let items: Vec<_> = lengths.iter().map(|length| item(*length)).collect();
        line.push(items.into_iter()).unwrap();
        line
    }

    /// Prepares what there is to prepare, and returns the next batch.
    fn batch(line: &mut Line<Item, Item>) -> Option<(Vec<usize>, Spread)> {
        loop {
            match line.poll(Instant::now())? {
                Task::Prepare(raw) => {
                    let ready = raw.into_iter().map(|item| Prepared {
                        length: (item.length > 0).then_some(item.length),
                        item,
                    });
                    line.prepared(ready.collect(), 0);
                }
                Task::Run(items, spread) => {
                    let lengths = items.iter().map(|item| item.length).collect();
                    return Some((lengths, spread));
                }
                Task::Drop(_) => {}
            }
        }
    }

    #[test]
    fn texts_of_like_length_leave_together_and_the_oldest_first() {
        let mut line = line_of(8, &[10, 50, 10, 50]);
        assert_eq!(batch(&mut line).unwrap().0, [10, 10]);
        assert_eq!(batch(&mut line).unwrap().0, [50, 50]);
        assert_eq!(batch(&mut line), None);
    }

    #[test]
    fn who_is_passed_over_keeps_its_place() {
        let mut line = line_of(8, &[10, 40, 10, 90, 41, 10]);
        assert_eq!(batch(&mut line).unwrap().0, [10, 10, 10]);
        assert_eq!(batch(&mut line).unwrap().0, [40, 41]);
        assert_eq!(batch(&mut line).unwrap().0, [90]);
    }

    #[test]
    fn what_has_no_length_goes_alone_in_its_turn() {
        let mut line = line_of(8, &[10, 0, 10]);
        assert_eq!(batch(&mut line).unwrap().0, [10, 10]);
        assert_eq!(batch(&mut line).unwrap().0, [0]);
    }

    #[test]
    fn a_batch_that_is_alone_gets_all_threads_and_others_get_one_each() {
        let mut line = line_of(8, &[10]);
        assert_eq!(batch(&mut line).unwrap().1, Spread::All);
        line.push(std::iter::once(item(10))).unwrap();
        assert_eq!(
            batch(&mut line).unwrap().1,
            Spread::Alone,
            "another one runs"
        );
        line.done();
        line.done();
        line.push([item(10), item(90)].into_iter()).unwrap();
        assert_eq!(
            batch(&mut line).unwrap().1,
            Spread::Alone,
            "another one waits"
        );
    }

    #[test]
    fn several_items_are_taken_in_together_or_not_at_all() {
        let mut line = line_of(3, &[10, 10]);
        let two = [item(10), item(10)];
        assert_eq!(line.push(two.into_iter()), Err(PushError::Full));
        assert_eq!(line.depth(), 2);
        line.push(std::iter::once(item(10))).unwrap();
        assert_eq!(line.depth(), 3);
    }

    #[test]
    fn items_count_as_waiting_while_they_are_prepared() {
        let mut line = line_of(2, &[10, 10]);
        assert!(matches!(line.poll(Instant::now()), Some(Task::Prepare(_))));
        assert_eq!(line.depth(), 2);
        assert_eq!(line.push(std::iter::once(item(1))), Err(PushError::Full));
        line.prepared(Vec::new(), 2);
        assert_eq!(line.depth(), 0);
    }

    #[test]
    fn what_is_late_or_abandoned_never_runs() {
        let mut line = Line::new(8, POLICY);
        let late = Item {
            deadline: Instant::now(),
            ..item(10)
        };
        let abandoned = Item {
            abandoned: true,
            ..item(10)
        };
        line.push([late, abandoned, item(10)].into_iter()).unwrap();
        assert_eq!(batch(&mut line).unwrap().0, [10]);
        assert_eq!(batch(&mut line), None);
    }

    #[test]
    fn closing_drops_what_waits_and_wakes_every_thread() {
        let queue: Queue<Item, Item> = Queue::new(1, POLICY, 1);
        queue.enter();
        queue.enter();
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
        let mut crew = Crew {
            line: line_of(8, &[10]),
            awake: 0,
            asleep: 2,
            called: 0,
        };
        assert!(crew.call(3));
        assert!(!crew.call(3), "one is on its way");
        crew.line.push([item(10), item(10)].into_iter()).unwrap();
        assert!(crew.call(3), "there is enough for two");
        assert!(!crew.call(3), "nobody is left to be woken");
    }

    #[test]
    fn an_item_wakes_a_sleeping_worker_though_another_is_worth_waking_only_for_many() {
        let queue: Queue<Item, Item> = Queue::new(8, POLICY, 8);
        queue.enter();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| matches!(queue.take(), Some(Task::Prepare(_))));
            queue.push(std::iter::once(item(1))).unwrap();
            assert!(worker.join().unwrap());
        });
    }
}
