//! How a command takes the lock.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    event::{Event, Reporter},
    ports::{JournalError, Ports},
    state::{journal::Journal, lock_holder::LockHolder},
};

/// The monitor usually releases the lock well within this time.
const MAX_WAIT_FOR_MONITOR: Duration = Duration::from_mins(1);

/// Takes the lock for a command. Waits for a monitor that starts or stops a color, because no person started
/// that.
pub(super) async fn lock<'a>(
    ports: &'a Ports,
    command: &str,
    reporter: &dyn Reporter,
) -> Result<Journal<'a>, JournalError> {
    let mut announced = false;
    lock_within(ports, command, MAX_WAIT_FOR_MONITOR, async |holder| {
        let Some(monitor) = holder.filter(|holder| holder.is_monitor()) else {
            return false;
        };
        if !std::mem::replace(&mut announced, true) {
            reporter.report(&Event::Note {
                text: format!("waiting for {monitor}, which is starting or stopping a color"),
            });
        }
        true
    })
    .await
}

/// Takes the lock. If it is busy, tries again for `max_wait`, as long as `waits` returns true for the lock's holder.
pub(super) async fn lock_within<'a>(
    ports: &'a Ports,
    command: &str,
    max_wait: Duration,
    mut waits: impl AsyncFnMut(Option<&LockHolder>) -> bool,
) -> Result<Journal<'a>, JournalError> {
    const PAUSE: Duration = Duration::from_millis(50);

    let deadline = Instant::now() + max_wait;
    loop {
        let holder = match Journal::lock(ports, command).await {
            Err(JournalError::Busy { holder }) => holder,
            locked => return locked,
        };
        if Instant::now() >= deadline || !waits(holder.as_deref()).await {
            return Err(JournalError::Busy { holder });
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{adapters::connect_in, report::Reporters};

    /// Why the lock is refused to `deploy v2`.
    async fn refusal(ports: &Ports) -> String {
        let refused = lock(ports, "deploy v2", &Reporters(Vec::new())).await;
        refused.map(drop).unwrap_err().to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn command_waits_for_the_monitor_until_timeout() {
        let state = tempfile::tempdir().unwrap();
        let ports = connect_in(state.path());
        let held = Journal::lock(&ports, "monitor").await.unwrap();
        let error = refusal(&ports).await;
        assert!(error.contains("`monitor` by"), "{error}");
        assert!(error.contains("starting or stopping a color"), "{error}");
        let no_reporter = Reporters(Vec::new());
        let (locked, ()) = tokio::join!(lock(&ports, "deploy v2", &no_reporter), async {
            drop(held);
        });
        locked.map(drop).unwrap();
    }

    #[tokio::test]
    async fn command_does_not_wait_for_another_command() {
        let state = tempfile::tempdir().unwrap();
        let ports = connect_in(state.path());
        let _held = Journal::lock(&ports, "deploy v1").await.unwrap();
        let error = refusal(&ports).await;
        assert!(error.ends_with("; try again when it is done"), "{error}");
    }
}
