//! Who holds the lock.

use std::{env, fmt, process};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The command under which the monitor takes the lock.
pub const MONITOR: &str = "monitor";

/// The holder of the lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// Its command, such as `deploy v2`.
    pub command: String,
    /// The user who started it, as `user@host`.
    pub by: String,
    /// Its process ID on that host.
    pub pid: u32,
    /// When it took the lock.
    pub since: Timestamp,
}

impl LockHolder {
    /// This process, running `command` since `since`.
    #[must_use]
    pub fn this(command: &str, since: Timestamp) -> Self {
        Self {
            command: command.to_owned(),
            by: current_user(),
            pid: process::id(),
            since,
        }
    }

    /// Returns whether it deploys a release, and so accepts requests to stop.
    #[must_use]
    pub fn deploys(&self) -> bool {
        self.command == "recover"
            || ["deploy", "rollback "]
                .iter()
                .any(|command| self.command.starts_with(command))
    }

    /// Returns whether it moves traffic itself, usually within a moment.
    #[must_use]
    pub fn moves_traffic(&self) -> bool {
        self.is_monitor() || self.command == "rollback" || self.command.starts_with("switch")
    }

    /// Returns whether it is `deployer monitor`, which acts by itself.
    #[must_use]
    pub fn is_monitor(&self) -> bool {
        self.command == MONITOR
    }
}

impl fmt::Display for LockHolder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`{}` by {}, process {}, since {:.0}",
            self.command, self.by, self.pid, self.since
        )
    }
}

/// The current user and host, as `user@host`.
#[must_use]
pub fn current_user() -> String {
    let user =
        env::var("USER").unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let system = rustix::system::uname();
    format!("{user}@{}", system.nodename().to_string_lossy())
}
