use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Since when something has been going on, for others to look at.
#[derive(Debug)]
pub(crate) struct BusyTimer {
    created: Instant,
    /// Microseconds from `created` to the beginning; 0 while it does not go on.
    since: AtomicU64,
}

impl BusyTimer {
    /// Of something that has not begun.
    pub(crate) fn new() -> Self {
        Self {
            created: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    /// It begins now, or once more.
    pub(crate) fn begin(&self, now: Instant) {
        let since = now.saturating_duration_since(self.created).as_micros();
        let since = u64::try_from(since).unwrap_or(u64::MAX).max(1);
        self.since.store(since, Ordering::Relaxed);
    }

    /// It has ended.
    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// How long it has taken until `now`, if it goes on.
    pub(crate) fn elapsed(&self, now: Instant) -> Option<Duration> {
        match self.since.load(Ordering::Relaxed) {
            0 => None,
            since => Some(
                now.saturating_duration_since(self.created)
                    .saturating_sub(Duration::from_micros(since)),
            ),
        }
    }
}
