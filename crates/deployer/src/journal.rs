//! What the deployer was doing, kept where the next run finds it, and the lock that keeps two
//! deployers apart.
//!
//! The journal never decides where traffic goes: the router's flags do.

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
    history::{self, Past},
    holder::Holder,
    intent::{self, Intent},
    kill_point,
    monitor::Standing,
    phase::Phase,
    plan::Plan,
};

/// Why the journal or the lock is not to be had.
#[derive(Debug, Error)]
pub enum JournalError {
    /// Somebody else is deploying.
    #[error("another deployer is at work: {}", named(.holder.as_deref()))]
    Busy {
        /// Who, since when, doing what; none when it could not say so.
        holder: Option<Box<Holder>>,
    },
    /// The state directory cannot be used.
    #[error("cannot {doing} {path}: {source}")]
    Storage {
        /// What was being done, in the infinitive.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The journal is there but says nothing that makes sense.
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
    /// The last phase that it was seen to reach.
    pub phase: Phase,
    /// When.
    pub since: Timestamp,
    /// Why it ended, when it did.
    pub reason: Option<String>,
    /// What stood before, as long as no server was touched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Standing>,
}

impl Entry {
    /// The deployment that touched a server last: this one, or where it touched none, the one before.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.before.clone().unwrap_or_else(|| Standing {
            deployment: Some((self.plan.id.clone(), self.phase)),
        })
    }
}

/// The journal, held by the one deployer that may act.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
    /// The kernel lets go of the lock when this process ends, however it ends.
    _lock: File,
}

impl Journal {
    /// The state directory that it is of.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.directory
    }

    /// Takes the lock for `command`, in words such as `deploy v2`.
    pub fn lock(directory: &Path, command: &str) -> Result<Self, JournalError> {
        fs::create_dir_all(directory).map_err(storage("create", directory))?;
        let path = directory.join("lock");
        let mut lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(storage("open", &path))?;
        // Whoever looks who is at work has the lock for a moment.
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
        let holder = serde_json::to_string(&Holder::this(command)).unwrap_or_default();
        // The name is a courtesy to others: a full disk must not keep anybody from rolling back.
        let _ = lock
            .set_len(0)
            .and_then(|()| lock.write_all(holder.as_bytes()));
        let journal = Self {
            directory: directory.to_owned(),
            _lock: lock,
        };
        // A deployer that was killed right after its last entry; the same courtesy.
        let _ = journal.complete_history();
        Ok(journal)
    }

    /// Adds the end of the last deployment to the history, if it is not there.
    fn complete_history(&self) -> Result<(), JournalError> {
        let Some(past) = self.last()?.as_ref().and_then(Past::of) else {
            return Ok(());
        };
        let same = |other: &Past| (&other.id, other.deed) == (&past.id, past.deed);
        if self.past()?.iter().any(same) {
            return Ok(());
        }
        self.done(&past)
    }

    /// Adds to the history what was done without a deployment.
    pub fn done(&self, past: &Past) -> Result<(), JournalError> {
        history::append(&self.directory, past)
            .map_err(storage("add to", &history::path(&self.directory)))
    }

    /// Writes down that the deployment reached `phase`; an end also in the history. It is on the disk
    /// when this returns.
    pub fn reached(
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
            // What is appended may still find room where what is replaced finds none.
            if let Some(past) = Past::of(&entry) {
                let _ = history::append(&self.directory, &past);
            }
            return Err(storage("write", &path)(error));
        }
        kill_point::pass(format_args!("after journal {phase}"));
        self.complete_history()
    }

    /// What stood before `plan`, if that has touched no server when it is in `phase`.
    fn before(&self, plan: &Plan, phase: Phase) -> Option<Standing> {
        let last = self.last().ok().flatten();
        if phase == Phase::Planned {
            return Some(last.map(|last| last.standing()).unwrap_or_default());
        }
        let last = last.filter(|last| last.plan.id == plan.id && last.phase == Phase::Planned)?;
        last.before.filter(|_| phase.is_end())
    }

    /// Writes down what is about to be done without a deployment. It is on the disk when this
    /// returns.
    pub fn intend(&self, intent: &Intent) -> Result<(), JournalError> {
        intent::write(&self.directory, intent).map_err(storage("write to", &self.directory))
    }

    /// What was about to be done when a deployer died.
    #[must_use]
    pub fn intent(&self) -> Option<Intent> {
        intent::read(&self.directory)
    }

    /// What was intended is done, or given up, and written down.
    pub fn carried_out(&self) -> Result<(), JournalError> {
        intent::remove(&self.directory).map_err(storage("write to", &self.directory))
    }

    /// Everything that was done, oldest first.
    pub fn past(&self) -> Result<Vec<Past>, JournalError> {
        let path = history::path(&self.directory);
        let read = history::read(&self.directory).map_err(storage("read", &path))?;
        Ok(read.past)
    }

    /// The last entry; none when nothing was ever deployed.
    pub fn last(&self) -> Result<Option<Entry>, JournalError> {
        last_entry(&self.directory)
    }
}

/// Who is at work in `directory`; nobody when the lock is free.
#[must_use]
pub fn at_work(directory: &Path) -> Option<Holder> {
    let path = directory.join("lock");
    match File::open(&path).ok()?.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read_holder(&path),
        _ => None,
    }
}

fn read_holder(path: &Path) -> Option<Holder> {
    serde_json::from_str(&fs::read_to_string(path).ok()?).ok()
}

/// Who it is, and what to do.
fn named(holder: Option<&Holder>) -> String {
    let advice = if holder.is_some_and(Holder::is_watch) {
        "it is starting or stopping a color, within the fleet's time limit; try again when that is over"
    } else {
        "try again when it is done"
    };
    let who = holder.map_or_else(
        || "it does not say who it is".to_owned(),
        ToString::to_string,
    );
    format!("{who}; {advice}")
}

/// The last entry of the journal in `directory`, without taking the lock.
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

/// Replaces a file so that a reader, also one after a power cut, sees all of it or the old one.
/// It stays as private as it was.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = File::create(&temporary)?;
    if let Ok(metadata) = fs::metadata(path) {
        file.set_permissions(metadata.permissions())?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
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
    use crate::{color::Color, release::Release};

    fn plan() -> Plan {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release)
    }

    #[test]
    fn the_second_deployer_is_told_who_holds_the_lock() {
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
    fn who_is_at_work_is_known_to_others_until_it_is_done() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(at_work(directory.path()), None);
        let held = Journal::lock(directory.path(), "deploy v2").unwrap();
        let holder = at_work(directory.path()).unwrap();
        assert_eq!(holder.command, "deploy v2");
        assert!(holder.by.contains('@'), "{holder}");
        drop(held);
        assert_eq!(at_work(directory.path()), None);
    }

    #[test]
    fn an_end_is_in_the_history_once_also_when_the_deployer_was_killed_before_it_could_say_so() {
        let directory = tempfile::tempdir().unwrap();
        let past = || history::read(directory.path()).unwrap().past;
        let journal = Journal::lock(directory.path(), "deploy v2").unwrap();
        journal.reached(&plan(), Phase::Planned, None).unwrap();
        assert_eq!(past(), []);
        journal.reached(&plan(), Phase::Promoted, None).unwrap();
        assert_eq!(past().len(), 1);
        drop(journal);
        fs::remove_file(history::path(directory.path())).unwrap();
        drop(Journal::lock(directory.path(), "deploy v3").unwrap());
        drop(Journal::lock(directory.path(), "deploy v3").unwrap());
        let [only] = &past()[..] else {
            panic!("{:?}", past());
        };
        assert_eq!(only.deed, history::Deed::Promoted);
        assert_eq!(only.id, Some(plan().id));
    }

    #[test]
    fn the_last_phase_is_what_the_next_run_finds() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::lock(directory.path(), "deploy v2").unwrap();
        assert_eq!(journal.last().unwrap(), None);
        journal.reached(&plan(), Phase::Planned, None).unwrap();
        journal
            .reached(&plan(), Phase::Refused, Some("it never became healthy"))
            .unwrap();
        let last = last_entry(directory.path()).unwrap().unwrap();
        assert_eq!(last.phase, Phase::Refused);
        assert_eq!(last.plan, plan());
        assert_eq!(last.reason.as_deref(), Some("it never became healthy"));
    }

    #[test]
    fn a_deployment_that_touched_nothing_leaves_standing_what_stood_before() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::lock(directory.path(), "deploy v2").unwrap();
        let standing = || journal.last().unwrap().unwrap().standing().deployment;
        journal.reached(&plan(), Phase::Planned, None).unwrap();
        assert_eq!(standing(), None);
        for phase in [Phase::Starting, Phase::Promoted] {
            journal.reached(&plan(), phase, None).unwrap();
            assert_eq!(standing(), Some((plan().id, phase)));
        }
        let next = Plan {
            id: "next".to_owned(),
            ..plan()
        };
        for phase in [Phase::Planned, Phase::Refused] {
            journal.reached(&next, phase, None).unwrap();
            assert_eq!(standing(), Some((plan().id, Phase::Promoted)));
        }
        journal.reached(&next, Phase::Planned, None).unwrap();
        journal.reached(&next, Phase::Starting, None).unwrap();
        journal.reached(&next, Phase::Refused, None).unwrap();
        assert_eq!(standing(), Some((next.id, Phase::Refused)));
    }

    #[test]
    fn a_damaged_journal_is_reported_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(entry_path(directory.path()), "{\"plan\":").unwrap();
        let error = last_entry(directory.path()).unwrap_err().to_string();
        assert!(error.contains("deployment.json"), "{error}");
        assert!(error.contains("deployer status"), "{error}");
    }
}
