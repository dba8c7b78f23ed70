use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::busy_timer::BusyTimer;

/// The head of the next request on a connection.
pub(crate) struct PendingHead {
    /// How long the server has been waiting for it.
    pub(crate) awaited: BusyTimer,
    /// Wakes the connection when it is overdue.
    pub(crate) overdue: Notify,
}

impl PendingHead {
    /// Waits until the head has been pending for the idle timeout.
    pub(super) async fn wait_until_overdue(&self, idle: Duration) {
        loop {
            self.overdue.notified().await;
            // A request may have arrived since the sweep.
            if self.awaited.elapsed(Instant::now()) >= Some(idle) {
                return;
            }
        }
    }
}
