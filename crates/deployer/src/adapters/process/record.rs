//! The record of a started process, by which a later deployer finds it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use procfs::process::{Process, Stat, all_processes};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

/// The environment variable that names the record. It identifies a process whose deployer was killed before it
/// wrote the record.
pub(super) const VARIABLE: &str = "DEPLOYER_RECORD";

/// A started process.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::adapters) struct Record {
    pub(super) pid: i32,
    /// With `pid` this identifies a process for good, because process IDs are reused.
    pub(super) started_at_tick: u64,
    /// The version, if it is a model server.
    pub(super) version: Option<String>,
}

impl Record {
    /// Records a process that was just started.
    pub(in crate::adapters) fn of(pid: i32, version: Option<&str>) -> Self {
        Self {
            pid,
            started_at_tick: stat(pid).map_or(0, |stat| stat.starttime),
            version: version.map(str::to_owned),
        }
    }

    /// Finds the process that these files belong to.
    pub(super) fn find(files: &Files) -> Option<Self> {
        let processes = all_processes().ok()?.filter_map(Result::ok);
        processes.into_iter().find_map(|process| {
            // Its children belong to the files too, but lead no process group.
            let leads = process.stat().ok()?.pgrp == process.pid();
            if !leads || !files.belong_to(&process) {
                return None;
            }
            let environment = process.environ().ok()?;
            let version = environment.get(OsStr::new("MODEL_VERSION"));
            let version = version.map(|version| version.to_string_lossy());
            let record = Self::of(process.pid(), version.as_deref());
            record.alive().map(|_| record)
        })
    }

    /// The other processes of the recorded process's group that are alive, such as nginx's workers.
    ///
    /// The kernel gives the number of a group to no new process as long as the group has members. When all of them have
    /// ended, it may. So a group without the recorded process must prove by `files` that it is the same one.
    pub(super) fn others(&self, files: &Files) -> Vec<Pid> {
        let complete = self.alive().is_some();
        let processes = all_processes().into_iter().flatten().filter_map(Result::ok);
        processes
            .filter(|process| {
                let stat = process.stat();
                process.pid() != self.pid
                    && stat.is_ok_and(|stat| stat.pgrp == self.pid && !has_ended(&stat))
                    && (complete || files.belong_to(process))
            })
            .filter_map(|process| Pid::from_raw(process.pid()))
            .collect()
    }

    /// The process, if it is the recorded one and alive.
    pub(in crate::adapters) fn alive(&self) -> Option<Pid> {
        let stat = stat(self.pid)?;
        let same = stat.starttime == self.started_at_tick;
        (same && !has_ended(&stat))
            .then(|| Pid::from_raw(self.pid))
            .flatten()
    }
}

/// Whether a process is a zombie, or about to disappear.
fn has_ended(stat: &Stat) -> bool {
    matches!(stat.state, 'Z' | 'X')
}

/// The files of a service, which identify its processes.
pub(super) struct Files {
    /// The record, whose path a process has in its environment.
    pub(super) record: PathBuf,
    /// The log, which is the standard output of a process. nginx overwrites its environment.
    pub(super) log: PathBuf,
}

impl Files {
    /// Whether a process is one of the service. Other users' processes cannot be read, and are not ours.
    fn belong_to(&self, process: &Process) -> bool {
        let environment = process.environ().unwrap_or_default();
        let record = environment.get(OsStr::new(VARIABLE)).map(Path::new);
        if record == Some(&self.record) {
            return true;
        }
        let identity = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some((file.dev(), file.ino()))
        };
        let output = PathBuf::from(format!("/proc/{}/fd/1", process.pid()));
        let output = identity(&output);
        output.is_some() && output == identity(&self.log)
    }
}

fn stat(pid: i32) -> Option<Stat> {
    Process::new(pid).ok()?.stat().ok()
}
