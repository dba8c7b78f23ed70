use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::busy_timer::BusyTimer;

/// The head of the next request of a connection.
pub(crate) struct PendingHead {
    /// Since when the client is to send it.
    pub(crate) awaited: BusyTimer,
    /// Wakes the connection to see that it is overdue.
    pub(crate) overdue: Notify,
}

impl PendingHead {
    /// Waits until the client has been waited for as long as a connection may be idle.
    pub(super) async fn wait_until_overdue(&self, idle: Duration) {
        loop {
            self.overdue.notified().await;
            // A request may have come between the look and this.
            if self.awaited.elapsed(Instant::now()) >= Some(idle) {
                return;
            }
        }
    }
}
