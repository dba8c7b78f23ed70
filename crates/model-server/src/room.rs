//! How much of memory the requests may take that are under way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Smaller bodies are not counted: the number of connections bounds them well enough, and most
/// requests need not meet at one counter.
const SMALL: usize = 16 * 1024;

/// Bytes that all requests share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    held: AtomicUsize,
}

impl Budget {
    /// So many bytes for all requests together.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
        })
    }

    fn claim(&self, bytes: usize) -> bool {
        let more = |held: usize| {
            held.checked_add(bytes)
                .filter(|together| *together <= self.limit)
        };
        let claimed = self
            .held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        claimed.is_ok()
    }
}

/// What one request holds of the budget, until it is dropped. It belongs to the work and not to
/// the client, who may leave before the work is done.
#[derive(Debug)]
pub(crate) struct Room {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Room {
    /// Room for nothing yet.
    pub(crate) fn of(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Whether there is room for `bytes` in all; it is held from now on.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> bool {
        if bytes <= SMALL || bytes <= self.bytes {
            return true;
        }
        let fits = self.budget.claim(bytes - self.bytes);
        if fits {
            self.bytes = bytes;
        }
        fits
    }

    /// To be kept by all work of the request; `None` where nothing is held.
    pub(crate) fn shared(self) -> Option<Arc<Self>> {
        (self.bytes > 0).then(|| Arc::new(self))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_held_until_the_last_work_of_a_request_is_done() {
        let budget = Budget::new(100_000);
        let mut first = Room::of(&budget);
        assert!(first.grow_to(60_000) && first.grow_to(90_000));
        let mut second = Room::of(&budget);
        assert!(!second.grow_to(20_000));
        let work = first.shared().unwrap();
        let more_work = Arc::clone(&work);
        drop(work);
        assert!(!second.grow_to(20_000));
        drop(more_work);
        assert!(second.grow_to(20_000));
    }

    #[test]
    fn small_bodies_find_room_where_none_is_left() {
        let budget = Budget::new(20_000);
        let mut large = Room::of(&budget);
        assert!(large.grow_to(20_000));
        let mut small = Room::of(&budget);
        assert!(small.grow_to(SMALL));
        assert!(small.shared().is_none());
    }
}
