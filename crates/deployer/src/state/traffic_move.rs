//! A move of traffic outside of a deployment, written before the first flag changes, so that the next command
//! understands it if the deployer is killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    kill_point,
    state::{atomic_file, history::Action},
};

/// A move of traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficMove {
    /// The action of the history that it becomes.
    pub action: Action,
    /// The color that has the traffic.
    pub from: Color,
    /// The color that receives it; the same color if a person confirms where traffic is.
    pub to: Color,
    /// Why.
    pub reason: String,
    /// When it was planned.
    pub at: Timestamp,
    /// Whether `from` had its fit flag.
    pub from_was_fit: bool,
}

impl TrafficMove {
    /// The command that caused it.
    #[must_use]
    pub fn words(&self) -> String {
        match self.action {
            Action::Switched => format!("`deployer switch {}`", self.to),
            Action::FailedOver => format!("the failover to {}", self.to),
            _ => "`deployer rollback`".to_owned(),
        }
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("move.json")
}

/// Writes the move durably.
pub(crate) fn write(state: &Path, traffic_move: &TrafficMove) -> io::Result<()> {
    let text = serde_json::to_string_pretty(traffic_move)?;
    kill_point::pass("before move");
    atomic_file::replace(&path(state), &text)?;
    kill_point::pass("after move");
    Ok(())
}

/// Reads the pending move; `None` if there is none or the file is invalid.
#[must_use]
pub fn read(state: &Path) -> Option<TrafficMove> {
    serde_json::from_str(&fs::read_to_string(path(state)).ok()?).ok()
}

/// Removes the move after it was completed and recorded.
pub(crate) fn remove(state: &Path) -> io::Result<()> {
    kill_point::pass("before move off");
    match fs::remove_file(path(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    kill_point::pass("after move off");
    Ok(())
}
