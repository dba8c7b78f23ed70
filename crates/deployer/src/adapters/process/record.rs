//! The record of a started process, by which a later deployer finds it.

use std::{fs, os::unix::ffi::OsStrExt as _, path::Path};

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
            started_at_tick: Process::look_up(pid).map_or(0, |process| process.started_at_tick),
            version: version.map(str::to_owned),
        }
    }

    /// Finds the process whose record should be at `path`.
    pub(super) fn find(path: &Path) -> Option<Self> {
        let marked = [VARIABLE.as_bytes(), b"=", path.as_os_str().as_bytes()].concat();
        let processes = fs::read_dir("/proc").ok()?;
        processes
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
            .find_map(|pid| {
                // Other users' processes cannot be read, and are not ours.
                let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
                let mut variables = environment.split(|byte| *byte == 0);
                // Its children inherit the variable, but lead no process group.
                let leads = Process::look_up(pid)?.group == pid;
                if !leads || !variables.any(|variable| variable == marked) {
                    return None;
                }
                let version = environment
                    .split(|byte| *byte == 0)
                    .find_map(|variable| variable.strip_prefix(b"MODEL_VERSION="))
                    .map(|version| String::from_utf8_lossy(version).into_owned());
                let record = Self::of(pid, version.as_deref());
                record.alive().map(|_| record)
            })
    }

    /// The process, if it is the recorded one and alive.
    pub(super) fn alive(&self) -> Option<Pid> {
        let process = Process::look_up(self.pid)?;
        let same = process.started_at_tick == self.started_at_tick;
        (same && !process.is_zombie)
            .then(|| Pid::from_raw(self.pid))
            .flatten()
    }
}

/// A process, as Linux reports it.
struct Process {
    /// A started process leads its own process group.
    group: i32,
    started_at_tick: u64,
    is_zombie: bool,
}

impl Process {
    fn look_up(pid: i32) -> Option<Self> {
        let stat =
            fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        // proc_pid_stat(5): the second field is the program's name in parentheses, which may contain spaces and
        // parentheses. State is the 3rd field, group the 5th, and start time the 22nd.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Some(Self {
            group: fields.get(2)?.parse().ok()?,
            started_at_tick: fields.get(19)?.parse().ok()?,
            is_zombie: matches!(fields.first(), Some(&"Z" | &"X")),
        })
    }
}
