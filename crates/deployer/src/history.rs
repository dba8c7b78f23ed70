//! What was done, one line a deed, for as long as the state directory lives.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{color::Color, holder::whoami, journal::Entry, kill_point, phase::Phase};

/// What somebody did about where traffic goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deed {
    /// A deployment ended: the candidate has the traffic.
    Promoted,
    /// A deployment ended: traffic never moved.
    Refused,
    /// A deployment ended, or was taken back later: the release before it has the traffic.
    RolledBack,
    /// A deployment ended, and traffic could not be put where it belongs.
    Halted,
    /// A person moved traffic without a deployment.
    Switched,
    /// `deployer watch` moved traffic away from an active color that was down.
    FailedOver,
}

impl Deed {
    /// The deed by which a deployment ended in this phase; none when that is not an end.
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

    /// In words.
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
pub struct Past {
    /// When it was done.
    pub at: Timestamp,
    /// What was done.
    pub deed: Deed,
    /// The deployment that it ended or took back; none where there was none.
    pub id: Option<String>,
    /// The color that the deed is about: a deployment's candidate, or the one that got traffic.
    pub color: Color,
    /// The version there, where it is known.
    pub version: Option<String>,
    /// The digest of the model there, where it is known.
    pub digest: Option<String>,
    /// How long the deployment took, in seconds; none where there was none.
    pub seconds: Option<f64>,
    /// Who did it, as `user@host`.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

impl Past {
    /// The end of a deployment, if the entry is one.
    #[must_use]
    pub fn of(entry: &Entry) -> Option<Self> {
        let plan = &entry.plan;
        let seconds = plan
            .began
            .map(|began| entry.since.duration_since(began).as_secs_f64());
        Some(Self {
            at: entry.since,
            deed: Deed::of(entry.phase)?,
            id: Some(plan.id.clone()),
            color: plan.idle,
            version: Some(plan.release.version.clone()),
            digest: plan.release.digest.clone(),
            seconds,
            by: whoami(),
            reason: entry.reason.clone(),
        })
    }

    /// Traffic that moved to `color` without a deployment.
    #[must_use]
    pub fn moved(deed: Deed, color: Color, version: Option<String>, reason: &str) -> Self {
        Self {
            at: Timestamp::now(),
            deed,
            id: None,
            color,
            version,
            digest: None,
            seconds: None,
            by: whoami(),
            reason: Some(reason.to_owned()),
        }
    }
}

/// What was read of a history.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Read {
    /// The lines, oldest first.
    pub past: Vec<Past>,
    /// The numbers of lines that are none, counted from 1: one that a full disk or a power cut tore,
    /// or that somebody edited.
    pub torn: Vec<usize>,
}

/// The file of a state directory.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join("history.jsonl")
}

/// Adds one line. It is on the disk when this returns.
pub fn append(state: &Path, past: &Past) -> io::Result<()> {
    let path = path(state);
    let new = !path.exists();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(&path)?;
    let mut line = serde_json::to_string(past)?;
    line.push('\n');
    if is_torn(&mut file)? {
        // What was torn stays a line by itself.
        line.insert(0, '\n');
    }
    kill_point::pass(format_args!("before history {}", past.deed.words()));
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    if new {
        File::open(state)?.sync_all()?;
    }
    kill_point::pass(format_args!("after history {}", past.deed.words()));
    Ok(())
}

/// Everything that was done; nothing where there is no history yet.
pub fn read(state: &Path) -> io::Result<Read> {
    let bytes = match fs::read(path(state)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Read::default()),
        read => read?,
    };
    let mut read = Read::default();
    for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
        match serde_json::from_str(line) {
            Ok(past) => read.past.push(past),
            Err(_) => read.torn.push(number + 1),
        }
    }
    Ok(read)
}

/// Whether the last line lacks its end.
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

    fn switched(color: Color) -> Past {
        Past::moved(Deed::Switched, color, Some("v2".to_owned()), "by hand")
    }

    #[test]
    fn what_was_done_is_read_in_order() {
        let state = tempfile::tempdir().unwrap();
        assert_eq!(read(state.path()).unwrap(), Read::default());
        let past = [switched(Color::Green), switched(Color::Blue)];
        for past in &past {
            append(state.path(), past).unwrap();
        }
        assert_eq!(read(state.path()).unwrap().past, past);
    }

    #[test]
    fn a_torn_line_is_told_and_takes_no_other_with_it() {
        let state = tempfile::tempdir().unwrap();
        append(state.path(), &switched(Color::Green)).unwrap();
        let whole = fs::read_to_string(path(state.path())).unwrap();
        fs::write(path(state.path()), format!("{whole}{}", &whole[..30])).unwrap();
        assert_eq!(read(state.path()).unwrap().torn, [2]);
        append(state.path(), &switched(Color::Blue)).unwrap();
        let read = read(state.path()).unwrap();
        assert_eq!(read.torn, [2]);
        let colors: Vec<Color> = read.past.iter().map(|past| past.color).collect();
        assert_eq!(colors, [Color::Green, Color::Blue]);
    }
}
