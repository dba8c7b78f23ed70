//! How a command takes the lock.

use std::{path::Path, time::Duration};

use tokio::time::Instant;

use crate::{
    event::{Event, Reporter},
    state::journal::{Journal, JournalError},
};

/// The monitor usually releases the lock well within this time.
pub(super) const MAX_WAIT_FOR_MONITOR: Duration = Duration::from_mins(1);

/// Takes the lock for a command. Waits for a monitor that starts or stops a color, because no person started
/// that.
pub(super) async fn lock(
    state: &Path,
    command: &str,
    max_wait: Duration,
    reporter: &dyn Reporter,
) -> Result<Journal, JournalError> {
    const PAUSE: Duration = Duration::from_millis(100);

    let deadline = Instant::now() + max_wait;
    let mut announced = false;
    loop {
        let monitor = match Journal::lock(state, command) {
            Err(JournalError::Busy {
                holder: Some(holder),
            }) if holder.is_monitor() && Instant::now() < deadline => holder,
            locked => return locked,
        };
        if !std::mem::replace(&mut announced, true) {
            reporter.report(&Event::Note {
                text: format!("waiting for {monitor}, which is starting or stopping a color"),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporters;

    const LONG: Duration = Duration::from_mins(10);

    #[tokio::test]
    async fn command_waits_for_the_monitor_until_timeout() {
        let state = tempfile::tempdir().unwrap();
        let no_reporter = Reporters(Vec::new());
        let held = Journal::lock(state.path(), "monitor").unwrap();
        let error = lock(state.path(), "deploy v2", Duration::ZERO, &no_reporter)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("`monitor` by"), "{error}");
        assert!(error.contains("starting or stopping a color"), "{error}");
        let (locked, ()) =
            tokio::join!(lock(state.path(), "deploy v2", LONG, &no_reporter), async {
                drop(held);
            });
        locked.unwrap();
    }

    #[tokio::test]
    async fn command_does_not_wait_for_another_command() {
        let state = tempfile::tempdir().unwrap();
        let _held = Journal::lock(state.path(), "deploy v1").unwrap();
        let error = lock(state.path(), "deploy v2", LONG, &Reporters(Vec::new()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("; try again when it is done"), "{error}");
    }
}
