//! The chain of the history: each line carries the SHA-256 of the line before. Pure.
//!
//! To hide a change of a line, a person must rewrite all later lines. Then no line has the hash that an earlier notification
//! carries.

use std::{cmp::Ordering, collections::HashMap, fmt};

use model_repository::hexadecimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The fields that tie a line to the line before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The number of the line, counted from 1. It tells a removed line from an edited one.
    pub number: u64,
    /// The SHA-256 of the line before, in hexadecimal digits; `None` on the first line.
    pub previous: Option<String>,
}

/// The newest line, as the deployer remembers it in a file of its own: no later line ties it to the chain yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestLine {
    /// The number of the line.
    pub number: u64,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: String,
}

/// Returns the lines of the file, without their ends. The last one may be torn.
fn lines(file: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = file.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}

/// The SHA-256 of a line without its end, in hexadecimal digits.
#[must_use]
pub fn sha256(line: &[u8]) -> String {
    hexadecimal(&Sha256::digest(line))
}

/// The SHA-256 of the newest line of the file; `None` without a line.
#[must_use]
pub fn newest(file: &[u8]) -> Option<String> {
    lines(file).last().map(|line| sha256(line))
}

/// The link of the line that follows the lines of `file`.
///
/// If no line has the hash in `remembered`, the newest line was edited or removed. The link then names that hash, so that
/// the chain stays broken at this place.
#[must_use]
pub fn next_link(file: &[u8], remembered: Option<&NewestLine>) -> Link {
    let lines = lines(file);
    let last = lines.len().checked_sub(1);
    let number = last.map_or(0, |last| number_of(&lines, last));
    let is_lost = |newest: &&NewestLine| lines.iter().all(|line| sha256(line) != newest.sha256);
    match remembered.filter(is_lost) {
        Some(newest) => Link {
            number: number.max(newest.number) + 1,
            previous: Some(newest.sha256.clone()),
        },
        None => Link {
            number: number + 1,
            previous: last.map(|last| sha256(lines[last])),
        },
    }
}

/// The number of a line: what the line says, or counted from the last line before that says it.
fn number_of(lines: &[&[u8]], index: usize) -> u64 {
    let counted = (0..=index).rev().find_map(|known| {
        let Content::Linked(link) = Content::of(lines[known]) else {
            return None;
        };
        Some(link.number.saturating_add((index - known) as u64))
    });
    counted.unwrap_or(index as u64 + 1)
}

/// What a line is.
enum Content {
    /// A line of the chain.
    Linked(Link),
    /// An entry without a link.
    Unlinked,
    /// No entry: torn, or edited.
    Invalid,
}

impl Content {
    fn of(line: &[u8]) -> Self {
        let Ok(object) = serde_json::from_slice::<serde_json::Map<_, _>>(line) else {
            return Self::Invalid;
        };
        match (object.get("number"), object.get("previous")) {
            (None, None) => Self::Unlinked,
            _ => serde_json::from_slice(line).map_or(Self::Invalid, Self::Linked),
        }
    }
}

/// What is wrong at a line. Lines are numbered by their place in the file, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Break {
    /// The line, or the place where it was.
    pub line: usize,
    /// What happened to it.
    pub kind: BreakKind,
}

/// What happened to a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakKind {
    /// It is not what was written.
    Edited,
    /// It is no entry, and it was one, or another one, when the next line was written.
    Damaged,
    /// Lines before it were removed.
    Removed,
    /// It does not follow the line that it was written after, which is elsewhere in the file.
    Moved,
    /// The deployer did not write it.
    Added,
    /// No line has the hash that was asked for.
    Unknown,
}

impl fmt::Display for Break {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = self.line;
        match self.kind {
            BreakKind::Edited => write!(formatter, "line {line} was edited"),
            BreakKind::Damaged => write!(
                formatter,
                "line {line} is no entry, and was changed after the next line was written: edited, or damaged on the disk"
            ),
            BreakKind::Removed => write!(formatter, "lines before line {line} were removed"),
            BreakKind::Moved => write!(
                formatter,
                "line {line} does not follow the line that it was written after: lines were added before it, or moved"
            ),
            BreakKind::Added => write!(formatter, "line {line} was not written by the deployer"),
            BreakKind::Unknown => formatter.write_str(
                "no line has the hash that you gave: the line of that notification was edited or removed",
            ),
        }
    }
}

/// The result of a check of the whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// The number of lines.
    pub lines: usize,
    /// How many lines at the beginning were written before the chain began. A change of any but the last goes unnoticed.
    pub before_chain: usize,
    /// The lines that a full disk or a power cut left incomplete, and that are unchanged since. They break nothing.
    pub torn: Vec<usize>,
    /// Where the chain breaks.
    pub breaks: Vec<Break>,
    /// The SHA-256 of the newest line.
    pub newest: Option<String>,
}

/// Checks all lines of `file`. `remembered` is the newest line that the deployer wrote; `wanted` is a hash that some line
/// must have, such as that of a notification.
#[must_use]
pub fn verify(file: &[u8], remembered: Option<&NewestLine>, wanted: Option<&str>) -> Verification {
    let lines = lines(file);
    let contents: Vec<Content> = lines.iter().map(|line| Content::of(line)).collect();
    let hashes: Vec<String> = lines.iter().map(|line| sha256(line)).collect();
    let places: HashMap<&str, usize> = (0..)
        .zip(&hashes)
        .map(|(at, it)| (it.as_str(), at))
        .collect();
    let first_linked = contents
        .iter()
        .position(|content| matches!(content, Content::Linked(_)));
    let mut verification = Verification {
        lines: lines.len(),
        before_chain: first_linked.unwrap_or(lines.len()),
        newest: hashes.last().cloned(),
        ..Verification::default()
    };
    // The hash of the line before is checked by the line after, so an edited line is found one line later.
    let mut is_torn = vec![false; lines.len()];
    for (index, content) in contents.iter().enumerate() {
        let before = index.checked_sub(1);
        let broken = match content {
            Content::Invalid => {
                is_torn[index] = true;
                None
            }
            Content::Unlinked if first_linked.is_some_and(|first| first < index) => {
                Some((index, BreakKind::Added))
            }
            Content::Unlinked => None,
            Content::Linked(link) if link.previous == before.map(|it| hashes[it].clone()) => None,
            Content::Linked(Link {
                previous: Some(previous),
                ..
            }) if places.contains_key(previous.as_str()) => Some((index, BreakKind::Moved)),
            Content::Linked(link) => Some(explain(link, index, before, &lines, &contents)),
        };
        let Some((at, kind)) = broken else {
            continue;
        };
        is_torn[at] &= kind != BreakKind::Damaged;
        let line = at + 1;
        if verification.breaks.iter().all(|known| known.line != line) {
            verification.breaks.push(Break { line, kind });
        }
    }
    if let Some(newest) = remembered
        && !places.contains_key(newest.sha256.as_str())
    {
        verification
            .breaks
            .push(missing_newest_line(newest, &lines, &mut is_torn));
    }
    if wanted.is_some_and(|wanted| !places.contains_key(wanted)) {
        verification.breaks.push(Break {
            line: lines.len(),
            kind: BreakKind::Unknown,
        });
    }
    verification.torn = (1..)
        .zip(is_torn)
        .filter_map(|(line, torn)| torn.then_some(line))
        .collect();
    verification
}

/// Says why the line at `index` does not follow the line before. Returns the index of the line to blame.
fn explain(
    link: &Link,
    index: usize,
    before: Option<usize>,
    lines: &[&[u8]],
    contents: &[Content],
) -> (usize, BreakKind) {
    let Some(before) = before else {
        return (index, BreakKind::Removed);
    };
    match (
        link.number.cmp(&(number_of(lines, before) + 1)),
        &contents[before],
    ) {
        (Ordering::Greater, _) => (index, BreakKind::Removed),
        (Ordering::Equal, Content::Invalid) => (before, BreakKind::Damaged),
        (Ordering::Equal, _) => (before, BreakKind::Edited),
        // Its number was edited, or it is of another history.
        (Ordering::Less, _) => (index, BreakKind::Edited),
    }
}

/// Says what happened to the newest line, whose hash no line has.
fn missing_newest_line(newest: &NewestLine, lines: &[&[u8]], is_torn: &mut [bool]) -> Break {
    let last = lines.len().checked_sub(1);
    let is_there = last.filter(|last| number_of(lines, *last) >= newest.number);
    match is_there {
        Some(last) => {
            let back = number_of(lines, last) - newest.number;
            let index = last.saturating_sub(usize::try_from(back).unwrap_or(last));
            let kind = if std::mem::take(&mut is_torn[index]) {
                BreakKind::Damaged
            } else {
                BreakKind::Edited
            };
            let line = index + 1;
            Break { line, kind }
        }
        None => Break {
            line: lines.len() + 1,
            kind: BreakKind::Removed,
        },
    }
}

#[cfg(test)]
mod tests;
