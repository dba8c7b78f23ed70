//! How much of memory the requests may take that are under way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Smaller bodies are not counted: the number of connections bounds them well enough, and most
/// requests need not meet at one counter.
const UNCOUNTED_BYTES: usize = 16 * 1024;

/// Bytes that all requests share.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: usize,
    reserved: AtomicUsize,
}

impl MemoryBudget {
    /// So many bytes for all requests together.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            reserved: AtomicUsize::new(0),
        })
    }

    fn try_reserve(&self, bytes: usize) -> bool {
        let more = |reserved: usize| {
            reserved
                .checked_add(bytes)
                .filter(|together| *together <= self.limit)
        };
        let claimed = self
            .reserved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        claimed.is_ok()
    }
}

/// What one request holds of the budget, until it is dropped. It belongs to the work and not to
/// the client, who may leave before the work is done.
#[derive(Debug)]
pub(crate) struct MemoryReservation {
    memory_budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryReservation {
    /// MemoryReservation for nothing yet.
    pub(crate) fn empty(memory_budget: &Arc<MemoryBudget>) -> Self {
        Self {
            memory_budget: Arc::clone(memory_budget),
            bytes: 0,
        }
    }

    /// Whether there is room for `bytes` in all; it is held from now on.
    pub(crate) fn try_grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= UNCOUNTED_BYTES || bytes <= self.bytes {
            return true;
        }
        let fits = self.memory_budget.try_reserve(bytes - self.bytes);
        if fits {
            self.bytes = bytes;
        }
        fits
    }

    /// To be kept by all work of the request; `None` where nothing is held.
    pub(crate) fn into_shared(self) -> Option<Arc<Self>> {
        (self.bytes > 0).then(|| Arc::new(self))
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory_budget
                .reserved
                .fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_held_until_the_last_work_of_a_request_is_done() {
        let memory_budget = MemoryBudget::new(100_000);
        let mut first = MemoryReservation::empty(&memory_budget);
        assert!(first.try_grow_to(60_000) && first.try_grow_to(90_000));
        let mut second = MemoryReservation::empty(&memory_budget);
        assert!(!second.try_grow_to(20_000));
        let work = first.into_shared().unwrap();
        let more_work = Arc::clone(&work);
        drop(work);
        assert!(!second.try_grow_to(20_000));
        drop(more_work);
        assert!(second.try_grow_to(20_000));
    }

    #[test]
    fn small_bodies_find_room_where_none_is_left() {
        let memory_budget = MemoryBudget::new(20_000);
        let mut large = MemoryReservation::empty(&memory_budget);
        assert!(large.try_grow_to(20_000));
        let mut small = MemoryReservation::empty(&memory_budget);
        assert!(small.try_grow_to(UNCOUNTED_BYTES));
        assert!(small.into_shared().is_none());
    }
}
