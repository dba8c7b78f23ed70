//! The record of a started process, by which a later deployer finds it.

use std::{ffi::OsStr, path::Path};

use procfs::process::{Process, Stat, all_processes};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// The environment variable that names the record. It identifies a process whose deployer was killed before it
/// wrote the record.
pub(super) const VARIABLE: &str = "DEPLOYER_RECORD";

/// A started process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: i32,
    /// With `pid` this identifies a process for good, because process IDs are reused.
    pub(super) started_at_tick: u64,
    /// The version, if it is a model server.
    pub(super) version: Option<String>,
}

impl Record {
    /// Records a process that was just started.
    pub(super) fn of(pid: i32, version: Option<&str>) -> Self {
        Self {
            pid,
            started_at_tick: stat(pid).map_or(0, |stat| stat.starttime),
            version: version.map(str::to_owned),
        }
    }

    /// Finds the process whose record should be at `path`.
    pub(super) fn find(path: &Path) -> Option<Self> {
        let processes = all_processes().ok()?.filter_map(Result::ok);
        processes.into_iter().find_map(|process| {
            // Other users' processes cannot be read, and are not ours.
            let environment = process.environ().ok()?;
            // Its children inherit the variable, but lead no process group.
            let leads = process.stat().ok()?.pgrp == process.pid();
            if !leads || environment.get(OsStr::new(VARIABLE)).map(Path::new) != Some(path) {
                return None;
            }
            let version = environment.get(OsStr::new("MODEL_VERSION"));
            let version = version.map(|version| version.to_string_lossy());
            let record = Self::of(process.pid(), version.as_deref());
            record.alive().map(|_| record)
        })
    }

    /// The process, if it is the recorded one and alive.
    pub(super) fn alive(&self) -> Option<Pid> {
        let stat = stat(self.pid)?;
        let same = stat.starttime == self.started_at_tick;
        let has_ended = matches!(stat.state, 'Z' | 'X');
        (same && !has_ended)
            .then(|| Pid::from_raw(self.pid))
            .flatten()
    }
}

fn stat(pid: i32) -> Option<Stat> {
    Process::new(pid).ok()?.stat().ok()
}
