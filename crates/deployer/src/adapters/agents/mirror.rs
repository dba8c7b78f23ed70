//! Copies of the routers' logs on this machine.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    adapters::{
        agents::{agent_client::AgentClient, named},
        nginx::log_file,
    },
    ports::{PortError, RouterEntry},
    state::atomic_file,
    store::is_name,
};

/// A first copy begins this far from the end of the router's log: about fifty thousand requests.
const RECENT: u64 = 32 * 1024 * 1024;

/// The logs that a router has.
const LOGS: [&str; 3] = ["access", "error", "shadow"];

/// The copies of one router's logs. Several processes copy into the same files, one at a time.
pub(super) struct Mirror(PathBuf);

impl Mirror {
    /// The copies of this router in the state directory. Fails if `router` may not name a router.
    pub(super) fn of(state: &Path, router: &str) -> Result<Self, PortError> {
        if !is_name(router) {
            return Err(PortError::Invalid(format!(
                "{router:?} is not a router's name: use 1 to 63 letters, digits, '-', '_', and '.', the first one a letter or digit"
            )));
        }
        Ok(Self(directory(state).join(router)))
    }

    /// The file of this log.
    pub(super) fn file(&self, log: &str) -> PathBuf {
        self.0.join(format!("{log}.log"))
    }

    /// Keeps other processes from changing the copies until the guard is dropped.
    pub(super) async fn lock(&self, deadline: Instant) -> Result<File, PortError> {
        const PAUSE: Duration = Duration::from_millis(10);

        let failed = |error: io::Error| self.failed("lock", &error);
        // The logs name what clients asked.
        let mut new = DirBuilder::new();
        new.recursive(true)
            .mode(0o700)
            .create(&self.0)
            .map_err(failed)?;
        loop {
            match try_lock(&self.0) {
                Ok(lock) => return Ok(lock),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(PortError::TimedOut(format!(
                        "another process holds the lock of {}",
                        self.0.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
        }
    }

    /// Appends what the router's log has and its copy has not. Call it with the lock. After the deadline the copying goes on
    /// at the next call.
    pub(super) async fn pull(
        &self,
        agents: &AgentClient,
        router: &RouterEntry,
        log: &str,
        deadline: Instant,
    ) -> Result<(), PortError> {
        let path = self.file(log);
        let failed = |error: io::Error| self.failed("write", &error);
        let mut options = OpenOptions::new();
        let open = options.append(true).create(true).mode(0o600).open(&path);
        let mut file = open.map_err(failed)?;
        let mut copied = file.metadata().map_err(failed)?.len();
        let mut origin = self.origin(log);
        let mut in_mid_line = false;
        loop {
            let begin = origin.unwrap_or_default();
            let after = u64::try_from(begin + signed(copied)).unwrap_or_default();
            let part = agents.log(router, log, after).await?;
            if part.length < after {
                // The router's log was emptied, and is read from its beginning.
                origin = Some(-signed(copied));
                self.set_origin(log, -signed(copied)).map_err(failed)?;
                continue;
            }
            if origin.is_none() {
                file.set_len(0).map_err(failed)?;
                copied = 0;
                let skipped = part.length.saturating_sub(RECENT);
                origin = Some(signed(skipped));
                self.set_origin(log, signed(skipped)).map_err(failed)?;
                in_mid_line = skipped > 0;
                if after != skipped {
                    continue;
                }
            }
            let mut bytes = &part.bytes[..];
            if std::mem::take(&mut in_mid_line)
                && let Some(newline) = bytes.iter().position(|byte| *byte == b'\n')
            {
                bytes = &bytes[newline + 1..];
                let begin = origin.unwrap_or_default() + signed(newline as u64 + 1);
                origin = Some(begin);
                self.set_origin(log, begin).map_err(failed)?;
            }
            file.write_all(bytes).map_err(failed)?;
            copied += bytes.len() as u64;
            if part.bytes.is_empty() || after + part.bytes.len() as u64 >= part.length {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(PortError::TimedOut(format!(
                    "{}: its {log} log is still being copied, byte {after} of {}",
                    named(router),
                    part.length
                )));
            }
        }
    }

    /// The position in the router's log of the copy's first byte, which is negative after the router's log was emptied;
    /// `None` if there is no copy.
    fn origin(&self, log: &str) -> Option<i64> {
        let text = fs::read_to_string(self.origin_file(log)).ok()?;
        text.trim().parse().ok()
    }

    fn set_origin(&self, log: &str, origin: i64) -> io::Result<()> {
        atomic_file::replace(&self.origin_file(log), &origin.to_string())
    }

    fn origin_file(&self, log: &str) -> PathBuf {
        self.0.join(format!("{log}.origin"))
    }

    fn failed(&self, doing: &str, error: &io::Error) -> PortError {
        let directory = self.0.display();
        PortError::of_file(
            error,
            format!("cannot {doing} the copies of a router's logs in {directory}: {error}"),
        )
    }
}

/// Empties copies that are larger than `limit` bytes.
pub(in crate::adapters) fn trim(state: &Path, limit: u64) -> Result<(), PortError> {
    for entry in fs::read_dir(directory(state))
        .into_iter()
        .flatten()
        .flatten()
    {
        let mirror = Mirror(entry.path());
        // Another process is copying; the next command empties them.
        let Ok(_lock) = try_lock(&mirror.0) else {
            continue;
        };
        for log in LOGS {
            let path = mirror.file(log);
            let Some(length) = path.metadata().ok().map(|metadata| metadata.len()) else {
                continue;
            };
            if length <= limit {
                continue;
            }
            let begin = mirror.origin(log).unwrap_or_default() + signed(length);
            // In this order: if this process dies in between, the log is copied again and no line is missed.
            log_file::trim(&path, limit)
                .and_then(|()| mirror.set_origin(log, begin))
                .map_err(|error| mirror.failed("empty", &error))?;
        }
    }
    Ok(())
}

fn directory(state: &Path) -> PathBuf {
    state.join("routers")
}

fn try_lock(directory: &Path) -> Result<File, TryLockError> {
    let path = directory.join("lock");
    let open = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path);
    let lock = open.map_err(TryLockError::Error)?;
    lock.try_lock()?;
    Ok(lock)
}

/// No log has so many bytes that this matters.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
