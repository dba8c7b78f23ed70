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

/// Returns the lines from the byte `after` on; without it, those near the end of the file. If the file is shorter than
/// `after`, it was emptied, and is read from its beginning.
pub(super) fn read_lines(path: &Path, after: Option<u64>) -> io::Result<LogLines> {
    /// About fifty thousand requests.
    const RECENT: u64 = 32 * 1024 * 1024;

    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let recent = length.saturating_sub(RECENT);
    let start = match after {
        Some(after) if after <= length => after,
        Some(_) => 0,
        None => recent,
    };
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let position_of_line = |newline: Option<usize>| newline.map_or(0, |newline| newline + 1);
    // nginx flushes whole lines, but a reader may still find half of one.
    let end = position_of_line(bytes.iter().rposition(|byte| *byte == b'\n'));
    // The recent part of a long log begins within a line.
    let begin = if after.is_none() && recent > 0 {
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
