//! The history: one line for each action that concerns traffic.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    kill_point,
    state::lock_holder::current_user,
};

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A deployment ended: the candidate has the traffic.
    Promoted,
    /// A deployment ended: traffic never moved.
    Refused,
    /// A deployment ended, or was reverted later: the previous release has the traffic.
    RolledBack,
    /// A deployment ended: a person is needed.
    Halted,
    /// A person moved traffic.
    Switched,
    /// `deployer monitor` moved traffic away from an active color that was down.
    FailedOver,
}

impl Action {
    /// The action that ends a deployment in this phase; `None` if the phase is no end.
    #[must_use]
    pub fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Promoted => Some(Self::Promoted),
            Phase::Refused => Some(Self::Refused),
            Phase::RolledBack => Some(Self::RolledBack),
            Phase::Halted => Some(Self::Halted),
            Phase::Planned
            | Phase::Starting
            | Phase::Healthy
            | Phase::Validated
            | Phase::Switched => None,
        }
    }

    /// The action in words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Refused => "refused",
            Self::RolledBack => "rolled back",
            Self::Halted => "halted",
            Self::Switched => "switched",
            Self::FailedOver => "failed over",
        }
    }
}

/// One line of the history. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
    /// The deployment that it ended or reverted; `None` if there was none.
    pub id: Option<String>,
    /// A deployment's candidate, or the color that received traffic.
    pub color: Color,
    /// The version of that color, if it is known.
    pub version: Option<String>,
    /// The model's digest, if it is known.
    pub digest: Option<String>,
    /// The duration of the deployment in seconds; `None` if there was none.
    pub seconds: Option<f64>,
    /// The user, as `user@host`.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

impl HistoryEntry {
    /// The end of the deployment `plan`, which reached `phase` at `at`; `None` if `phase` is no end.
    #[must_use]
    pub fn of_end(plan: &Plan, phase: Phase, at: Timestamp, reason: Option<&str>) -> Option<Self> {
        let seconds = plan
            .began
            .map(|began| at.duration_since(began).as_secs_f64());
        Some(Self {
            at,
            action: Action::of(phase)?,
            id: Some(plan.id.clone()),
            color: plan.idle,
            version: Some(plan.release.version.clone()),
            digest: plan.release.digest.clone(),
            seconds,
            by: current_user(),
            reason: reason.map(str::to_owned),
        })
    }

    /// A move of traffic to `color` outside of a deployment.
    #[must_use]
    pub fn of_move(action: Action, color: Color, version: Option<String>, reason: &str) -> Self {
        Self {
            at: Timestamp::now(),
            action,
            id: None,
            color,
            version,
            digest: None,
            seconds: None,
            by: current_user(),
            reason: Some(reason.to_owned()),
        }
    }
}

/// A history that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The entries, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// The numbers of invalid lines, counted from 1: torn by a full disk or a power cut, or edited.
    pub torn: Vec<usize>,
}

/// The history file of a state directory.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join("history.jsonl")
}

/// Appends one line durably.
pub fn append(state: &Path, entries: &HistoryEntry) -> io::Result<()> {
    let path = path(state);
    let new = !path.exists();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)?;
    let mut line = serde_json::to_string(entries)?;
    line.push('\n');
    if is_torn(&mut file)? {
        // The torn line stays a line of its own.
        line.insert(0, '\n');
    }
    kill_point::pass(format_args!("before history {}", entries.action.words()));
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    if new {
        File::open(state)?.sync_all()?;
    }
    kill_point::pass(format_args!("after history {}", entries.action.words()));
    Ok(())
}

/// Reads the history; empty if there is none yet.
pub fn read(state: &Path) -> io::Result<History> {
    let bytes = match fs::read(path(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(History::default()),
        read => read?,
    };
    let mut read = History::default();
    for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(entries) => read.entries.push(entries),
            Err(_) => read.torn.push(number + 1),
        }
    }
    Ok(read)
}

/// Returns whether the last line lacks its end.
fn is_torn(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switched(color: Color) -> HistoryEntry {
        HistoryEntry::of_move(Action::Switched, color, Some("v2".to_owned()), "by hand")
    }

    #[test]
    fn history_is_read_in_order() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()).unwrap(), History::default());
        let entries = [switched(Color::Green), switched(Color::Blue)];
        for entry in &entries {
            append(state.path(), entry).unwrap();
        }
        assert_eq!(read(state.path()).unwrap().entries, entries);
    }

    #[test]
    fn torn_history_line_is_reported_and_others_are_kept() {
        let state = tempfile::tempdir().unwrap();
        append(state.path(), &switched(Color::Green)).unwrap();
        let text = fs::read_to_string(path(state.path())).unwrap();
        fs::write(path(state.path()), format!("{text}{}", &text[..30])).unwrap();
        assert_eq!(read(state.path()).unwrap().torn, [2]);
        append(state.path(), &switched(Color::Blue)).unwrap();
        let read = read(state.path()).unwrap();
        assert_eq!(read.torn, [2]);
        let colors: Vec<Color> = read.entries.iter().map(|entry| entry.color).collect();
        assert_eq!(colors, [Color::Green, Color::Blue]);
    }
}
