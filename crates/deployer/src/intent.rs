//! What somebody is about to do about where traffic goes without a deployment, written down before
//! the first flag changes: a deployer killed in the middle of it is understood by the next.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{color::Color, history::Deed, journal, kill_point};

/// Traffic that is to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What it will be called in the history.
    pub deed: Deed,
    /// The color that has the traffic.
    pub from: Color,
    /// The color that is to get it; the same where a person confirms where it is.
    pub to: Color,
    /// Why.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
    /// Whether `from` could stand in.
    pub from_was_fit: bool,
}

impl Intent {
    /// In the words of a command.
    #[must_use]
    pub fn words(&self) -> String {
        match self.deed {
            Deed::Switched => format!("`deployer switch {}`", self.to),
            Deed::FailedOver => format!("the failover to {}", self.to),
            _ => "`deployer rollback`".to_owned(),
        }
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("intent.json")
}

/// Writes it down. It is on the disk when this returns.
pub(crate) fn write(state: &Path, intent: &Intent) -> io::Result<()> {
    let text = serde_json::to_string_pretty(intent)?;
    kill_point::pass("before intent");
    journal::replace(&path(state), &text)?;
    kill_point::pass("after intent");
    Ok(())
}

/// What somebody was about to do and did not see through; none that makes sense is none.
#[must_use]
pub fn read(state: &Path) -> Option<Intent> {
    serde_json::from_str(&fs::read_to_string(path(state)).ok()?).ok()
}

/// It is done, and everything is written down.
pub(crate) fn remove(state: &Path) -> io::Result<()> {
    kill_point::pass("before intent off");
    match fs::remove_file(path(state)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    kill_point::pass("after intent off");
    Ok(())
}
