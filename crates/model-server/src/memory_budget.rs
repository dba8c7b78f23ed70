//! Limits the memory that the bodies of all requests take together.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Smaller bodies are not counted: the limit on connections bounds them, and most requests avoid the shared
/// counter.
const UNCOUNTED_BYTES: usize = 16 * 1024;

/// The bytes that all requests share.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    limit: usize,
    reserved: AtomicUsize,
}

impl MemoryBudget {
    /// Creates a budget of `limit` bytes.
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

/// The bytes that one request holds until this is dropped. It belongs to the job, because the client may leave
/// earlier.
#[derive(Debug)]
pub(crate) struct MemoryReservation {
    memory_budget: Arc<MemoryBudget>,
    bytes: usize,
}

impl MemoryReservation {
    /// Reserves nothing yet.
    pub(crate) fn empty(memory_budget: &Arc<MemoryBudget>) -> Self {
        Self {
            memory_budget: Arc::clone(memory_budget),
            bytes: 0,
        }
    }

    /// Grows the reservation to `bytes` in total. Returns whether the budget allows it.
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

    /// Shares the reservation among all jobs of the request; `None` if it holds nothing.
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
    fn reservation_lasts_until_the_last_job_ends() {
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
    fn small_bodies_need_no_budget() {
        let memory_budget = MemoryBudget::new(20_000);
        let mut large = MemoryReservation::empty(&memory_budget);
        assert!(large.try_grow_to(20_000));
        let mut small = MemoryReservation::empty(&memory_budget);
        assert!(small.try_grow_to(UNCOUNTED_BYTES));
        assert!(small.into_shared().is_none());
    }
}
