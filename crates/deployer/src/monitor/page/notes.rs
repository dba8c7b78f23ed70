//! Lines that the page writes to the monitor's log.

use tokio::sync::mpsc;

/// How many lines may wait. What does not fit is dropped: a flood of requests must not fill the memory.
const MAX_WAITING: usize = 64;

/// Sends lines to the monitor's log.
#[derive(Debug, Clone)]
pub(crate) struct Notes(mpsc::Sender<String>);

impl Notes {
    /// Returns the sender, and the receiver for the monitor.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<String>) {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        (Self(sender), receiver)
    }

    /// Sends a line. It never waits.
    pub(crate) fn send(&self, text: String) {
        let _ = self.0.try_send(text);
    }
}

/// Returns the lines that were sent so far.
#[cfg(test)]
pub(crate) fn received(receiver: &mut mpsc::Receiver<String>) -> Vec<String> {
    std::iter::from_fn(|| receiver.try_recv().ok()).collect()
}
