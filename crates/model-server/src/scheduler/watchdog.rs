use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::busy_timer::BusyTimer;

/// How long each worker has been busy.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog(pub(super) Arc<[BusyTimer]>);

impl Watchdog {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| BusyTimer::new()).collect())
    }

    /// The duration until `now` of the longest forward pass that has not ended.
    pub(crate) fn longest(&self, now: Instant) -> Duration {
        let taken = self.0.iter().filter_map(|timer| timer.elapsed(now));
        taken.max().unwrap_or_default()
    }
}
