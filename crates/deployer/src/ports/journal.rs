//! What outlives a deployer: the lock, the journal, and the history.

use std::{any::Any, io, path::PathBuf};

use async_trait::async_trait;
use thiserror::Error;

use crate::state::{
    history::{History, HistoryEntry},
    journal_entries::JournalEntries,
    lock_holder::LockHolder,
};

/// Lets one deployer act at a time.
#[async_trait]
pub trait Lock: Send + Sync {
    /// Takes the lock for `command`, such as `deploy v2`. Does not wait while another deployer holds it.
    async fn acquire(&self, command: &str) -> Result<LockGuard, JournalError>;

    /// Returns who holds the lock; `None` if it is free.
    async fn holder(&self) -> Option<LockHolder>;
}

/// The lock, held. Dropping it, and the end of the process, release the lock.
pub struct LockGuard(
    #[expect(dead_code, reason = "dropping it releases the lock")] Box<dyn Any + Send + Sync>,
);

impl LockGuard {
    /// Holds the lock until `held` is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self(Box::new(held))
    }
}

/// Keeps the journal and the history. Only the holder of the lock writes.
#[async_trait]
pub trait JournalStore: Send + Sync {
    /// Returns the journal; empty before the first command that writes it.
    async fn read(&self) -> Result<JournalEntries, JournalError>;

    /// Replaces the journal, all of it or nothing, also after a power cut.
    async fn write(&self, entries: &JournalEntries) -> Result<(), JournalError>;

    /// Returns the history, which is empty before the first action.
    async fn read_history(&self) -> Result<History, JournalError>;

    /// Appends one entry to the history, durably.
    async fn append_history(&self, entry: &HistoryEntry) -> Result<(), JournalError>;
}

/// Why journal or lock are unusable.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Another deployer holds the lock.
    #[error("another deployer holds the lock: {}", named(.holder.as_deref()))]
    Busy {
        /// The holder; `None` if the lock file does not say.
        holder: Option<Box<LockHolder>>,
    },
    /// The state directory is unusable.
    #[error("cannot {doing} {path}: {source}")]
    Storage {
        /// What failed, in the infinitive.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
    /// The journal is damaged.
    #[error(
        "{path} is not a journal: {source}; see where traffic goes with `deployer status`, then remove the file"
    )]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Formats the holder, with advice.
fn named(holder: Option<&LockHolder>) -> String {
    let advice = if holder.is_some_and(LockHolder::is_monitor) {
        "it is starting or stopping a color, within the fleet's time limit; try again when that is over"
    } else {
        "try again when it is done"
    };
    let who = holder.map_or_else(|| "its holder is unknown".to_owned(), ToString::to_string);
    format!("{who}; {advice}")
}
