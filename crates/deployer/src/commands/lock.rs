//! How a command takes the lock.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    event::{Event, Reporter},
    ports::{JournalError, Ports},
    state::journal::Journal,
};

/// The monitor usually releases the lock well within this time.
pub(super) const MAX_WAIT_FOR_MONITOR: Duration = Duration::from_mins(1);

/// Takes the lock for a command. Waits for a monitor that starts or stops a color, because no person started
/// that.
pub(super) async fn lock<'a>(
    ports: &'a Ports,
    command: &str,
    max_wait: Duration,
    reporter: &dyn Reporter,
) -> Result<Journal<'a>, JournalError> {
    const PAUSE: Duration = Duration::from_millis(100);

    let deadline = Instant::now() + max_wait;
    let mut announced = false;
    loop {
        let monitor = match Journal::lock(ports, command).await {
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
    use crate::{adapters::connect_in, report::Reporters};

    const LONG: Duration = Duration::from_mins(10);

    /// Why the lock is refused to `deploy v2`.
    async fn refusal(ports: &Ports, max_wait: Duration) -> String {
        let refused = lock(ports, "deploy v2", max_wait, &Reporters(Vec::new())).await;
        refused.map(drop).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn command_waits_for_the_monitor_until_timeout() {
        let state = tempfile::tempdir().unwrap();
        let ports = connect_in(state.path());
        let held = Journal::lock(&ports, "monitor").await.unwrap();
        let error = refusal(&ports, Duration::ZERO).await;
        assert!(error.contains("`monitor` by"), "{error}");
        assert!(error.contains("starting or stopping a color"), "{error}");
        let no_reporter = Reporters(Vec::new());
        let (locked, ()) = tokio::join!(lock(&ports, "deploy v2", LONG, &no_reporter), async {
            drop(held);
        });
        locked.map(drop).unwrap();
    }

    #[tokio::test]
    async fn command_does_not_wait_for_another_command() {
        let state = tempfile::tempdir().unwrap();
        let ports = connect_in(state.path());
        let _held = Journal::lock(&ports, "deploy v1").await.unwrap();
        let error = refusal(&ports, LONG).await;
        assert!(error.ends_with("; try again when it is done"), "{error}");
    }
}
