//! The state directory: lock, journal, and history as files.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

use crate::{
    ports::{JournalError, JournalStore, Lock, LockGuard},
    state::{
        atomic_file,
        history::{History, HistoryEntry},
        history_chain::{self, Link, NewestLine, Verification},
        journal_entries::JournalEntries,
        line_file::is_torn,
        lock_holder::LockHolder,
    },
};

/// The files of one installation. The lock is the kernel's, which releases it when the process ends.
#[derive(Debug, Clone)]
pub struct StateDirectory(PathBuf);

impl StateDirectory {
    /// The state in this directory, which need not exist yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    fn lock_file(&self) -> PathBuf {
        self.0.join("lock")
    }

    fn journal_file(&self) -> PathBuf {
        self.0.join("journal.json")
    }

    fn history_file(&self) -> PathBuf {
        self.0.join("history.jsonl")
    }

    /// The file that remembers the newest line of the history.
    fn newest_line_file(&self) -> PathBuf {
        self.0.join("history.newest.json")
    }

    fn history_bytes(&self) -> Result<Vec<u8>, JournalError> {
        let path = self.history_file();
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.map_err(storage("read", &path)),
        }
    }

    /// The newest line that the deployer remembers; `None` before the first one, and if the file is unreadable: the chain
    /// then vouches for all lines but the newest.
    fn newest_line(&self) -> Option<NewestLine> {
        let text = fs::read(self.newest_line_file()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Returns the SHA-256 of the newest line of the history; `None` if there is none, or if it cannot be read.
    #[must_use]
    pub fn newest_history_hash(&self) -> Option<String> {
        history_chain::newest(&self.history_bytes().ok()?)
    }

    /// Checks that no line of the history was edited, removed, or added, and that a line has the SHA-256 `wanted`.
    pub fn verify_history(&self, wanted: Option<&str>) -> Result<Verification, JournalError> {
        // In this order: a line that is appended in between must not look as if it were missing.
        let newest = self.newest_line();
        let file = self.history_bytes()?;
        Ok(history_chain::verify(&file, newest.as_ref(), wanted))
    }
}

#[async_trait]
impl Lock for StateDirectory {
    async fn acquire(&self, command: &str) -> Result<LockGuard, JournalError> {
        /// A process that reads the lock's holder takes the lock for a moment.
        const PATIENCE: Duration = Duration::from_millis(300);
        const PAUSE: Duration = Duration::from_millis(10);

        fs::create_dir_all(&self.0).map_err(storage("create", &self.0))?;
        let path = self.lock_file();
        let mut lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(storage("open", &path))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = read_holder(&path).map(Box::new);
                    return Err(JournalError::Busy { holder });
                }
                Err(TryLockError::Error(source)) => return Err(storage("lock", &path)(source)),
            }
        }
        let holder = LockHolder::this(command, Timestamp::now());
        let holder = serde_json::to_string(&holder).unwrap_or_default();
        // Informs other users only: a full disk must not block a rollback.
        // The file gets no shorter before, because a full disk might then have no room for the text.
        let _ = lock
            .write_all(holder.as_bytes())
            .and_then(|()| lock.set_len(holder.len() as u64));
        Ok(LockGuard::new(lock))
    }

    async fn holder(&self) -> Option<LockHolder> {
        let path = self.lock_file();
        match File::open(&path).ok()?.try_lock_shared() {
            Err(TryLockError::WouldBlock) => read_holder(&path),
            _ => None,
        }
    }
}

#[async_trait]
impl JournalStore for StateDirectory {
    async fn read(&self) -> Result<JournalEntries, JournalError> {
        let path = self.journal_file();
        match fs::read_to_string(&path) {
            Ok(text) => {
                serde_json::from_str(&text).map_err(|source| JournalError::Damaged { path, source })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(JournalEntries::default()),
            Err(source) => Err(storage("read", &path)(source)),
        }
    }

    async fn write(&self, entries: &JournalEntries) -> Result<(), JournalError> {
        let path = self.journal_file();
        let written = serde_json::to_string_pretty(entries)
            .map_err(io::Error::from)
            .and_then(|text| match atomic_file::replace(&path, &text) {
                Err(error) if is_disk_full(&error) => overwrite(&path, &text).map_err(|_| error),
                replaced => replaced,
            });
        written.map_err(storage("write", &path))
    }

    async fn read_history(&self) -> Result<History, JournalError> {
        let bytes = self.history_bytes()?;
        let mut read = History::default();
        for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            match serde_json::from_str(line) {
                Ok(entry) => read.entries.push(entry),
                Err(_) => read.torn.push(number + 1),
            }
        }
        Ok(read)
    }

    async fn append_history(&self, entry: &HistoryEntry) -> Result<(), JournalError> {
        let link = history_chain::next_link(&self.history_bytes()?, self.newest_line().as_ref());
        let number = link.number;
        let sha256 = append(&self.0, &self.history_file(), &Line { entry, link })
            .map_err(storage("add to", &self.history_file()))?;
        // A full disk must not fail a command whose line is written. The chain allows that this file lags behind.
        let _ = serde_json::to_string(&NewestLine { number, sha256 })
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace(&self.newest_line_file(), &text));
        Ok(())
    }
}

fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};

    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// Overwrites a file in place if the new text is not longer, for a disk that is too full for a second file. A move
/// that a person called off must not stay in the journal.
///
/// The rest is filled with spaces, which JSON allows: one write of the old length leaves the old or the new text,
/// unless the power fails within it.
fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
    if text.len() > length {
        return Err(io::ErrorKind::StorageFull.into());
    }
    file.write_all(format!("{text:length$}").as_bytes())?;
    file.sync_all()
}

/// A line of the history.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    entry: &'a HistoryEntry,
    #[serde(flatten)]
    link: Link,
}

/// Appends one line durably. Returns its SHA-256. Only the holder of the lock calls this.
fn append(directory: &Path, path: &Path, line: &Line<'_>) -> io::Result<String> {
    let new = !path.exists();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .open(path)?;
    let mut line = serde_json::to_string(line)?;
    let sha256 = history_chain::sha256(line.as_bytes());
    line.push('\n');
    if is_torn(&mut file)? {
        // The torn line stays a line of its own.
        line.insert(0, '\n');
    }
    file.write_all(line.as_bytes())?;
    file.sync_all()?;
    if new {
        File::open(directory)?.sync_all()?;
    }
    Ok(sha256)
}

fn read_holder(path: &Path) -> Option<LockHolder> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

fn storage(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Storage {
        doing,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{color::Color, state::traffic_move::TrafficMove};

    fn switched(to: Color) -> HistoryEntry {
        let traffic_move = TrafficMove::switch_to(to);
        HistoryEntry::of_move(&traffic_move, traffic_move.at, Some("v2".to_owned()))
    }

    #[tokio::test]
    async fn busy_lock_error_names_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let held = state.acquire("deploy v2").await.unwrap();
        let error = state.acquire("rollback").await.map(drop).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("`deploy v2` by"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        state.acquire("rollback").await.map(drop).unwrap();
    }

    #[tokio::test]
    async fn lock_holder_is_visible_until_release() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        assert_eq!(state.holder().await, None);
        let held = state.acquire("deploy v2").await.unwrap();
        let holder = state.holder().await.unwrap();
        assert_eq!(holder.command, "deploy v2");
        assert!(holder.by.contains('@'), "{holder}");
        drop(held);
        assert_eq!(state.holder().await, None);
    }

    #[tokio::test]
    async fn damaged_journal_error_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("journal.json"), "{\"deployment\":").unwrap();
        let error = StateDirectory::new(directory.path()).read().await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("journal.json"), "{error}");
        assert!(error.contains("deployer status"), "{error}");
    }

    #[tokio::test]
    async fn journal_that_gets_shorter_is_written_on_a_full_disk() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        let pending = JournalEntries {
            traffic_move: Some(TrafficMove::switch_to(Color::Green)),
            ..JournalEntries::default()
        };
        state.write(&pending).await.unwrap();
        // Every write to this device fails for want of space.
        let new = directory.path().join("journal.json.new");
        std::os::unix::fs::symlink("/dev/full", new).unwrap();
        state.write(&JournalEntries::default()).await.unwrap();
        assert_eq!(state.read().await.unwrap(), JournalEntries::default());
        let mut longer = pending;
        if let Some(traffic_move) = &mut longer.traffic_move {
            traffic_move.reason = "by hand ".repeat(10);
        }
        let error = state.write(&longer).await.unwrap_err().to_string();
        assert!(error.contains("No space left on device"), "{error}");
        assert_eq!(state.read().await.unwrap(), JournalEntries::default());
    }

    #[tokio::test]
    async fn history_is_read_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        assert_eq!(state.read_history().await.unwrap(), History::default());
        let entries = [switched(Color::Green), switched(Color::Blue)];
        for entry in &entries {
            state.append_history(entry).await.unwrap();
        }
        assert_eq!(state.read_history().await.unwrap().entries, entries);
    }

    #[tokio::test]
    async fn torn_history_line_is_reported_and_others_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        state.append_history(&switched(Color::Green)).await.unwrap();
        let path = state.history_file();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}{}", &text[..30])).unwrap();
        assert_eq!(state.read_history().await.unwrap().torn, [2]);
        state.append_history(&switched(Color::Blue)).await.unwrap();
        let read = state.read_history().await.unwrap();
        assert_eq!(read.torn, [2]);
        let colors: Vec<Color> = read.entries.iter().map(|entry| entry.color).collect();
        assert_eq!(colors, [Color::Green, Color::Blue]);
    }

    #[tokio::test]
    async fn history_lines_carry_the_hash_of_the_line_before() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        assert_eq!(state.newest_history_hash(), None);
        for color in Color::BOTH {
            state.append_history(&switched(color)).await.unwrap();
        }
        let text = fs::read_to_string(state.history_file()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let second: serde_json::Value = serde_json::from_str(lines[1]).unwrap();
        let first_hash = history_chain::sha256(lines[0].as_bytes());
        assert_eq!(second["previous"], first_hash);
        assert_eq!(second["number"], 2);
        let newest = history_chain::sha256(lines[1].as_bytes());
        assert_eq!(state.newest_history_hash(), Some(newest));
        assert_eq!(state.verify_history(Some(&first_hash)).unwrap().breaks, []);
    }

    #[tokio::test]
    async fn full_disk_for_the_remembered_line_breaks_no_chain() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::new(directory.path());
        state.append_history(&switched(Color::Green)).await.unwrap();
        let new = directory.path().join("history.newest.json.new");
        std::os::unix::fs::symlink("/dev/full", new).unwrap();
        for color in Color::BOTH {
            state.append_history(&switched(color)).await.unwrap();
        }
        assert_eq!(state.newest_line().unwrap().number, 1);
        assert_eq!(state.verify_history(None).unwrap().breaks, []);
    }
}
