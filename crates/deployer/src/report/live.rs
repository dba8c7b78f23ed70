//! The live files of a state directory: `live/ID.jsonl` has a line for each event of a deployment, as it happens.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use crate::{
    report::{
        event_line::{EventLine, LoggedEvent},
        record::Record,
    },
    state::line_file::is_torn,
};

/// The live files of one installation.
#[derive(Debug, Clone)]
pub(crate) struct LiveFiles {
    directory: PathBuf,
}

impl LiveFiles {
    /// The live files in the state directory `state`.
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            directory: state.join("live"),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a deployment's file.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.directory.join(format!("{id}.jsonl"))
    }

    /// The identifiers of the deployments that have a file, oldest first; none if the directory is missing.
    fn ids(&self) -> Vec<String> {
        let files = fs::read_dir(&self.directory).into_iter().flatten();
        let names = files.filter_map(|file| file.ok()?.file_name().into_string().ok());
        let ids = names.filter_map(|name| Some(name.strip_suffix(".jsonl")?.to_owned()));
        let mut ids: Vec<String> = ids.collect();
        // Identifiers begin with the time.
        ids.sort();
        ids
    }

    /// The deployment that began last; `None` if no deployment has a file.
    pub(crate) fn newest(&self) -> Option<String> {
        self.ids().pop()
    }

    /// Opens a deployment's file to add lines.
    pub(super) fn writer(&self, id: &str) -> io::Result<LiveWriter> {
        fs::create_dir_all(&self.directory)?;
        let path = self.path(id);
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).create(true).open(&path)?;
        if is_torn(&mut file)? {
            // The torn line stays a line of its own.
            file.write_all(b"\n")?;
        }
        if is_new {
            File::open(&self.directory)?.sync_all()?;
        }
        Ok(LiveWriter {
            file,
            is_torn: false,
        })
    }

    /// A reader at the beginning of a deployment's file.
    pub(crate) fn reader(&self, id: &str) -> LiveReader {
        LiveReader {
            path: self.path(id),
            position: 0,
        }
    }

    /// Folds a deployment's file into its record; `None` if the file is missing or does not have the plan.
    pub(crate) fn replay(&self, id: &str) -> Option<Record> {
        let mut record = None;
        let mut reader = self.reader(id);
        let read = reader.read(usize::MAX, |line| Record::fold(&mut record, &line));
        read.ok().and(record)
    }

    /// Removes all but the `keep` newest files.
    pub(super) fn prune(&self, keep: usize) -> io::Result<()> {
        let ids = self.ids();
        for id in &ids[..ids.len().saturating_sub(keep)] {
            match fs::remove_file(self.path(id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Adds lines to a live file.
#[derive(Debug)]
pub(super) struct LiveWriter {
    file: File,
    /// Whether the last write failed, and may have left a part of its line.
    is_torn: bool,
}

impl LiveWriter {
    /// Adds a line. A phase is durable when this returns.
    pub(super) fn append(&mut self, line: &EventLine) -> io::Result<()> {
        let mut text = line.json();
        text.push('\n');
        if self.is_torn {
            // The torn line stays a line of its own.
            text.insert(0, '\n');
        }
        // One write, so that a reader sees all of a line, or none of it, unless the disk is full.
        self.is_torn = true;
        self.file.write_all(text.as_bytes())?;
        self.is_torn = false;
        if matches!(line.event, LoggedEvent::PhaseReached { .. }) {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

/// Reads on in a live file.
#[derive(Debug)]
pub(crate) struct LiveReader {
    path: PathBuf,
    position: u64,
}

impl LiveReader {
    /// The position in bytes up to which the file was read.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Passes at most `limit` new lines to `each`, and returns their number. A last line without its end is left for a later
    /// read. A line that is torn, or whose event this deployer does not know, counts and is skipped. A file that is missing
    /// or unreadable is an error.
    pub(crate) fn read(
        &mut self,
        limit: usize,
        mut each: impl FnMut(EventLine),
    ) -> io::Result<usize> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() <= self.position {
            return Ok(0);
        }
        file.seek(SeekFrom::Start(self.position))?;
        let mut file = BufReader::with_capacity(1 << 16, file);
        let mut text = Vec::new();
        let mut lines = 0;
        while lines < limit {
            text.clear();
            let length = file.read_until(b'\n', &mut text)?;
            if text.last() != Some(&b'\n') {
                break;
            }
            self.position += length as u64;
            lines += 1;
            if let Ok(line) = serde_json::from_slice(&text) {
                each(line);
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn note(text: &str) -> EventLine {
        EventLine {
            event: LoggedEvent::Note {
                text: text.to_owned(),
            },
            at: Timestamp::UNIX_EPOCH,
        }
    }

    fn texts(reader: &mut LiveReader, limit: usize) -> Vec<String> {
        let mut texts = Vec::new();
        let read = reader.read(limit, |line| match line.event {
            LoggedEvent::Note { text } => texts.push(text),
            other => panic!("{other:?}"),
        });
        read.unwrap();
        texts
    }

    #[test]
    fn live_reader_goes_on_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let files = LiveFiles::of(directory.path());
        let mut writer = files.writer("a").unwrap();
        let mut reader = files.reader("a");
        for text in ["one", "two", "three"] {
            writer.append(&note(text)).unwrap();
        }
        assert_eq!(texts(&mut reader, 2), ["one", "two"]);
        assert_eq!(texts(&mut reader, 2), ["three"]);
        assert!(texts(&mut reader, 2).is_empty());
        let length = fs::metadata(files.path("a")).unwrap().len();
        assert_eq!(reader.position(), length);
        writer.append(&note("four")).unwrap();
        assert_eq!(texts(&mut reader, 2), ["four"]);
    }

    #[test]
    fn live_reader_waits_for_end_of_line() {
        let directory = tempfile::tempdir().unwrap();
        let files = LiveFiles::of(directory.path());
        fs::create_dir(files.directory()).unwrap();
        let json = note("one").json();
        let (begin, end) = json.split_at(20);
        fs::write(files.path("a"), begin).unwrap();
        let mut reader = files.reader("a");
        assert!(texts(&mut reader, 9).is_empty());
        fs::write(files.path("a"), format!("{begin}{end}\n")).unwrap();
        assert_eq!(texts(&mut reader, 9), ["one"]);
    }

    #[test]
    fn torn_live_line_is_skipped_and_later_lines_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let files = LiveFiles::of(directory.path());
        files.writer("a").unwrap().append(&note("one")).unwrap();
        let torn = &note("two").json()[..20];
        let written = fs::read_to_string(files.path("a")).unwrap();
        fs::write(files.path("a"), written + torn).unwrap();
        files.writer("a").unwrap().append(&note("three")).unwrap();
        let unknown = "{\"event\":\"of_a_later_deployer\",\"at\":\"1970-01-01T00:00:00Z\"}\n";
        let written = fs::read_to_string(files.path("a")).unwrap();
        fs::write(files.path("a"), written + unknown).unwrap();
        files.writer("a").unwrap().append(&note("four")).unwrap();
        assert_eq!(texts(&mut files.reader("a"), 9), ["one", "three", "four"]);
    }

    #[test]
    fn missing_live_file_is_an_error_and_no_record() {
        let directory = tempfile::tempdir().unwrap();
        let files = LiveFiles::of(directory.path());
        assert!(files.reader("a").read(1, |_| {}).is_err());
        assert_eq!(files.replay("a"), None);
        assert_eq!(files.newest(), None);
    }
}
