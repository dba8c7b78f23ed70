//! The journal: what the deployer was doing, for the next command to find; and the lock that it is held by.
//!
//! The journal never decides where traffic goes. The router's flags do.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    deployment::{phase::Phase, plan::Plan},
    kill_point,
    monitor::standby::LastDeployment,
    state::{
        atomic_file::replace,
        history::{self, HistoryEntry},
        lock_holder::{LockHolder, read_holder},
        traffic_move::{self, TrafficMove},
    },
};

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

/// The last entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The deployment.
    pub plan: Plan,
    /// The last phase that it reached.
    pub phase: Phase,
    /// When.
    pub since: Timestamp,
    /// Why it ended, if it did.
    pub reason: Option<String>,
    /// The last deployment before this one, as long as this one has touched no server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<LastDeployment>,
}

impl Entry {
    /// The last deployment that touched a server: this one, or the one before.
    #[must_use]
    pub fn last_deployment(&self) -> LastDeployment {
        self.before.clone().unwrap_or_else(|| LastDeployment {
            deployment: Some((self.plan.id.clone(), self.phase)),
        })
    }

    /// The end of the deployment for the history; `None` if it has not ended.
    fn end(&self) -> Option<HistoryEntry> {
        HistoryEntry::of_end(&self.plan, self.phase, self.since, self.reason.as_deref())
    }
}

/// The journal, with the lock held.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    /// The kernel releases the lock when the process ends.
    _lock: File,
}

impl Journal {
    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.directory
    }

    /// Takes the lock for `command`, such as `deploy v2`.
    pub fn lock(directory: &Path, command: &str) -> Result<Self, JournalError> {
        fs::create_dir_all(directory).map_err(storage("create", directory))?;
        let path = directory.join("lock");
        let mut lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(storage("open", &path))?;
        // A process that reads the lock's holder takes the lock for a moment.
        let patience = Instant::now() + Duration::from_millis(300);
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < patience => {
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "the kernel tells nobody in time when a lock is free"
                    )]
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => {
                    let holder = read_holder(&path).map(Box::new);
                    return Err(JournalError::Busy { holder });
                }
                Err(TryLockError::Error(source)) => return Err(storage("lock", &path)(source)),
            }
        }
        let holder = serde_json::to_string(&LockHolder::this(command)).unwrap_or_default();
        // Informs other users only: a full disk must not block a rollback.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.write_all(holder.as_bytes()));
        let journal = Self {
            directory: directory.to_owned(),
            _lock: lock,
        };
        // Completes the history of a deployer that was killed after its last journal entry.
        let _ = journal.complete_history();
        Ok(journal)
    }

    /// Adds the end of the last deployment to the history if it is missing.
    fn complete_history(&self) -> Result<(), JournalError> {
        let Some(history) = self.last()?.as_ref().and_then(Entry::end) else {
            return Ok(());
        };
        let same =
            |other: &HistoryEntry| (&other.id, other.action) == (&history.id, history.action);
        if self.history()?.iter().any(same) {
            return Ok(());
        }
        self.append_history(&history)
    }

    /// Adds an action to the history.
    pub fn append_history(&self, history: &HistoryEntry) -> Result<(), JournalError> {
        history::append(&self.directory, history)
            .map_err(storage("add to", &history::path(&self.directory)))
    }

    /// Writes durably that the deployment reached `phase`; an end also goes to the history.
    pub fn record_phase(
        &self,
        plan: &Plan,
        phase: Phase,
        reason: Option<&str>,
    ) -> Result<(), JournalError> {
        let entry = Entry {
            plan: plan.clone(),
            phase,
            since: Timestamp::now(),
            reason: reason.map(str::to_owned),
            before: self.before(plan, phase),
        };
        let path = entry_path(&self.directory);
        let text = serde_json::to_string_pretty(&entry)
            .map_err(|error| storage("write", &path)(error.into()))?;
        kill_point::pass(format_args!("before journal {phase}"));
        if let Err(error) = replace(&path, &text) {
            // An append may still succeed on a disk that is too full for a new file.
            if let Some(history) = entry.end() {
                let _ = history::append(&self.directory, &history);
            }
            return Err(storage("write", &path)(error));
        }
        kill_point::pass(format_args!("after journal {phase}"));
        self.complete_history()
    }

    /// The last deployment before `plan`, if `plan` has touched no server in `phase`.
    fn before(&self, plan: &Plan, phase: Phase) -> Option<LastDeployment> {
        let last = self.last().ok().flatten();
        if phase == Phase::Planned {
            return Some(last.map(|last| last.last_deployment()).unwrap_or_default());
        }
        let last = last.filter(|last| last.plan.id == plan.id && last.phase == Phase::Planned)?;
        last.before.filter(|_| phase.is_end())
    }

    /// Writes durably which move of traffic is about to happen.
    pub fn begin_move(&self, traffic_move: &TrafficMove) -> Result<(), JournalError> {
        traffic_move::write(&self.directory, traffic_move)
            .map_err(storage("write to", &self.directory))
    }

    /// The move that an interrupted command left.
    #[must_use]
    pub fn pending_move(&self) -> Option<TrafficMove> {
        traffic_move::read(&self.directory)
    }

    /// Removes the move: it is completed or undone, and recorded.
    pub fn finish_move(&self) -> Result<(), JournalError> {
        traffic_move::remove(&self.directory).map_err(storage("write to", &self.directory))
    }

    /// The history, oldest entry first.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, JournalError> {
        let path = history::path(&self.directory);
        let read = history::read(&self.directory).map_err(storage("read", &path))?;
        Ok(read.entries)
    }

    /// The last entry; `None` if nothing was ever deployed.
    pub fn last(&self) -> Result<Option<Entry>, JournalError> {
        last_entry(&self.directory)
    }
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

/// Reads the last entry of the journal in `directory` without taking the lock.
pub fn last_entry(directory: &Path) -> Result<Option<Entry>, JournalError> {
    let path = entry_path(directory);
    match fs::read_to_string(&path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| JournalError::Damaged { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(storage("read", &path)(source)),
    }
}

fn entry_path(directory: &Path) -> PathBuf {
    directory.join("deployment.json")
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
    use crate::{color::Color, release::Release, state::lock_holder::lock_holder};

    fn plan() -> Plan {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release)
    }

    #[test]
    fn busy_lock_error_names_the_holder() {
        let directory = tempfile::tempdir().unwrap();
        let held = Journal::lock(directory.path(), "deploy v2").unwrap();
        let error = Journal::lock(directory.path(), "rollback")
            .unwrap_err()
            .to_string();
        assert!(error.contains("`deploy v2` by"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(held);
        Journal::lock(directory.path(), "rollback").unwrap();
    }

    #[test]
    fn lock_holder_is_visible_until_release() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(lock_holder(directory.path()), None);
        let held = Journal::lock(directory.path(), "deploy v2").unwrap();
        let holder = lock_holder(directory.path()).unwrap();
        assert_eq!(holder.command, "deploy v2");
        assert!(holder.by.contains('@'), "{holder}");
        drop(held);
        assert_eq!(lock_holder(directory.path()), None);
    }

    #[test]
    fn end_is_in_history_once_after_a_kill() {
        let directory = tempfile::tempdir().unwrap();
        let history = || history::read(directory.path()).unwrap().entries;
        let journal = Journal::lock(directory.path(), "deploy v2").unwrap();
        journal.record_phase(&plan(), Phase::Planned, None).unwrap();
        assert_eq!(history(), []);
        journal
            .record_phase(&plan(), Phase::Promoted, None)
            .unwrap();
        assert_eq!(history().len(), 1);
        drop(journal);
        fs::remove_file(history::path(directory.path())).unwrap();
        drop(Journal::lock(directory.path(), "deploy v3").unwrap());
        drop(Journal::lock(directory.path(), "deploy v3").unwrap());
        let [only] = &history()[..] else {
            panic!("{:?}", history());
        };
        assert_eq!(only.action, history::Action::Promoted);
        assert_eq!(only.id, Some(plan().id));
    }

    #[test]
    fn last_phase_is_read_by_the_next_command() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::lock(directory.path(), "deploy v2").unwrap();
        assert_eq!(journal.last().unwrap(), None);
        journal.record_phase(&plan(), Phase::Planned, None).unwrap();
        journal
            .record_phase(&plan(), Phase::Refused, Some("it never became healthy"))
            .unwrap();
        let last = last_entry(directory.path()).unwrap().unwrap();
        assert_eq!(last.phase, Phase::Refused);
        assert_eq!(last.plan, plan());
        assert_eq!(last.reason.as_deref(), Some("it never became healthy"));
    }

    #[test]
    fn untouched_deployment_keeps_the_last_deployment() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::lock(directory.path(), "deploy v2").unwrap();
        let last_deployment = || {
            journal
                .last()
                .unwrap()
                .unwrap()
                .last_deployment()
                .deployment
        };
        journal.record_phase(&plan(), Phase::Planned, None).unwrap();
        assert_eq!(last_deployment(), None);
        for phase in [Phase::Starting, Phase::Promoted] {
            journal.record_phase(&plan(), phase, None).unwrap();
            assert_eq!(last_deployment(), Some((plan().id, phase)));
        }
        let next = Plan {
            id: "next".to_owned(),
            ..plan()
        };
        for phase in [Phase::Planned, Phase::Refused] {
            journal.record_phase(&next, phase, None).unwrap();
            assert_eq!(last_deployment(), Some((plan().id, Phase::Promoted)));
        }
        journal.record_phase(&next, Phase::Planned, None).unwrap();
        journal.record_phase(&next, Phase::Starting, None).unwrap();
        journal.record_phase(&next, Phase::Refused, None).unwrap();
        assert_eq!(last_deployment(), Some((next.id, Phase::Refused)));
    }

    #[test]
    fn damaged_journal_error_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(entry_path(directory.path()), "{\"plan\":").unwrap();
        let error = last_entry(directory.path()).unwrap_err().to_string();
        assert!(error.contains("deployment.json"), "{error}");
        assert!(error.contains("deployer status"), "{error}");
    }
}
