//! The process of `deployer monitor` on this machine, so that `deployer down` can stop it.

use std::{fs, io, path::Path, process, time::Duration};

use rustix::process::{Signal, kill_process};
use tokio::time::Instant;

use crate::{adapters::process::Record, ports::PortError, state::atomic_file};

/// Records that this process is the monitor.
pub(crate) fn register(state: &Path) -> Result<(), PortError> {
    let path = path(state);
    let record = Record::of(process::id().cast_signed(), None);
    let written = fs::create_dir_all(path.parent().unwrap_or(state))
        .and_then(|()| serde_json::to_string(&record).map_err(io::Error::from))
        .and_then(|text| atomic_file::replace(&path, &text));
    written.map_err(|error| {
        let message = format!("`deployer down` will not stop this monitor: {error}");
        PortError::of_file(&error, message)
    })
}

/// Stops the recorded monitor, and waits until it has ended. Succeeds if none runs.
///
/// Never kills it: it may be recording a move of traffic.
pub(crate) async fn stop(state: &Path) -> Result<(), PortError> {
    const PATIENCE: Duration = Duration::from_secs(15);
    const PAUSE: Duration = Duration::from_millis(20);

    let text = fs::read_to_string(path(state)).unwrap_or_default();
    let Ok(record) = serde_json::from_str::<Record>(&text) else {
        return Ok(());
    };
    let Some(pid) = record.alive() else {
        return Ok(());
    };
    let who = format!("the monitor (process {})", pid.as_raw_pid());
    kill_process(pid, Signal::TERM).map_err(|error| {
        PortError::PermissionDenied(format!("{who} cannot be stopped: {error}"))
    })?;
    let deadline = Instant::now() + PATIENCE;
    while record.alive().is_some() {
        if Instant::now() >= deadline {
            return Err(PortError::TimedOut(format!("{who} does not end")));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

fn path(state: &Path) -> std::path::PathBuf {
    state.join("processes/monitor.json")
}
