//! Reads a log file while nginx appends to it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

/// Whole lines of a log file.
pub(super) struct LogLines {
    pub(super) text: String,
    /// The byte after the last line.
    pub(super) next: u64,
}

/// Returns the lines from the byte `after` on, at most the last 256 MiB; without it, those near the end of the file. If the
/// file is shorter than `after`, it was emptied, and is read from its beginning.
pub(super) fn read_lines(path: &Path, after: Option<u64>) -> io::Result<LogLines> {
    /// About fifty thousand requests.
    const RECENT: u64 = 32 * 1024 * 1024;
    /// Bounds the memory of a reader that comes late.
    const MAX_READ: u64 = 256 * 1024 * 1024;

    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let next = after.filter(|after| *after <= length).or(after.map(|_| 0));
    let most = if next.is_some() { MAX_READ } else { RECENT };
    let start = next.unwrap_or_default().max(length.saturating_sub(most));
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let position_of_line = |newline: Option<usize>| newline.map_or(0, |newline| newline + 1);
    // nginx flushes whole lines, but a reader may still find half of one.
    let end = position_of_line(bytes.iter().rposition(|byte| *byte == b'\n'));
    // A part that does not begin where the last one ended begins within a line.
    let begin = if start > next.unwrap_or_default() {
        position_of_line(bytes.iter().position(|byte| *byte == b'\n'))
    } else {
        0
    };
    Ok(LogLines {
        text: String::from_utf8_lossy(&bytes[begin..end]).into_owned(),
        next: start + end as u64,
    })
}

/// Empties a log that is larger than `limit` bytes. nginx appends, so it continues at the beginning.
pub(in crate::adapters) fn trim(path: &Path, limit: u64) -> io::Result<()> {
    match path.metadata() {
        Ok(metadata) if metadata.len() > limit => {
            OpenOptions::new().write(true).open(path)?.set_len(0)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_log_above_limit_is_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let file = File::create(&path).unwrap();
        // A sparse file, which takes no disk space.
        for (length, expected) in [(1 << 20, 1 << 20), (1 << 29, 0)] {
            file.set_len(length).unwrap();
            trim(&path, 1 << 28).unwrap();
            assert_eq!(path.metadata().unwrap().len(), expected);
        }
    }
}
