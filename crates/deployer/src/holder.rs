//! Who is at work.

use std::{env, fmt, process};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What `deployer watch` takes the lock for.
pub const WATCH: &str = "watch";

/// A deployer at work, as the lock names it to others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What it does, in words such as `deploy v2`.
    pub command: String,
    /// Who started it, as `user@host`.
    pub by: String,
    /// Its process, on that host.
    pub pid: u32,
    /// Since when.
    pub since: Timestamp,
}

impl Holder {
    /// This process, doing `command`.
    #[must_use]
    pub fn this(command: &str) -> Self {
        Self {
            command: command.to_owned(),
            by: whoami(),
            pid: process::id(),
            since: Timestamp::now(),
        }
    }

    /// Whether it is `deployer watch`, which nobody started for what it is doing now.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.command == WATCH
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`{}` by {}, process {}, since {:.0}",
            self.command, self.by, self.pid, self.since
        )
    }
}

/// The user and the machine, as `user@host`.
#[must_use]
pub fn whoami() -> String {
    let user =
        env::var("USER").unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()));
    let system = rustix::system::uname();
    format!("{user}@{}", system.nodename().to_string_lossy())
}
