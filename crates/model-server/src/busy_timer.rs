use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// Measures how long an activity has lasted. Other threads may read it.
#[derive(Debug)]
pub(crate) struct BusyTimer {
    created: Instant,
    /// Microseconds from `created` to the start; 0 while idle.
    since: AtomicU64,
}

impl BusyTimer {
    /// Creates an idle timer.
    pub(crate) fn new() -> Self {
        Self {
            created: Instant::now(),
            since: AtomicU64::new(0),
        }
    }

    /// Starts or restarts.
    pub(crate) fn begin(&self, now: Instant) {
        let since = now.saturating_duration_since(self.created).as_micros();
        let since = u64::try_from(since).unwrap_or(u64::MAX).max(1);
        self.since.store(since, Ordering::Relaxed);
    }

    /// Stops.
    pub(crate) fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    /// Returns how long the activity has lasted at `now`, or `None` while idle.
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
