//! Undelivered notifications: one directory for each receiver, and one file for each notification.
//!
//! Any process adds files, and the process that holds the lock of a receiver sends them and removes them. So commands
//! and the monitor share one queue, and what one of them could not deliver is delivered by another one.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{adapters::notify::notification::Notification, report::warn, state::atomic_file};

/// The largest number of undelivered notifications of a receiver.
const CAPACITY: usize = 1_000;

/// The undelivered notifications.
pub(super) struct Spool {
    directory: PathBuf,
    /// By receiver and identifier: what could not be written, as on a full disk. It is lost if this process ends.
    unwritten: Mutex<BTreeMap<(String, String), Notification>>,
}

impl Spool {
    pub(super) fn in_directory(directory: PathBuf) -> Self {
        Self {
            directory,
            unwritten: Mutex::default(),
        }
    }

    /// The receivers that have a queue.
    pub(super) fn receivers(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let directories = entries.filter(|entry| entry.path().is_dir());
        directories
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Creates a queue, so that other processes add notifications to it.
    pub(super) fn register(&self, receiver: &str) {
        // A queue that cannot be created is reported when a notification cannot be written.
        let _ = fs::create_dir_all(self.directory.join(receiver));
    }

    /// Removes the queue of a receiver.
    pub(super) fn forget(&self, receiver: &str) {
        let directory = self.directory.join(receiver);
        if let Err(error) = fs::remove_dir_all(&directory) {
            warn(&format!("cannot remove {}: {error}", directory.display()));
        }
    }

    /// Adds a notification to the queue of a receiver. A full queue loses its oldest notification.
    pub(super) fn add(&self, receiver: &str, notification: &Notification) {
        self.register(receiver);
        let path = self.file(receiver, &notification.id);
        let written = serde_json::to_string(notification)
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace(&path, &text));
        if let Err(error) = written {
            // A full disk leaves a part of the new file.
            let _ = fs::remove_file(path.with_extension("json.new"));
            let path = path.display();
            warn(&format!(
                "cannot write {path}, so the notification is lost unless it is delivered now: {error}"
            ));
            let key = (receiver.to_owned(), notification.id.clone());
            let mut unwritten = self.unwritten();
            unwritten.insert(key, notification.clone());
            if unwritten.len() > CAPACITY {
                unwritten.pop_first();
            }
        }
        let waiting = self.files(receiver);
        for id in &waiting[..waiting.len().saturating_sub(CAPACITY)] {
            warn(&format!(
                "alerts.{receiver} has {CAPACITY} undelivered notifications; the oldest one, {id}, is dropped"
            ));
            self.remove(receiver, id);
        }
    }

    /// The undelivered notifications of a receiver, oldest first.
    pub(super) fn waiting(&self, receiver: &str) -> Vec<Notification> {
        let mut waiting: BTreeMap<String, Notification> = self
            .unwritten()
            .iter()
            .filter(|((name, _), _)| name == receiver)
            .map(|((_, id), notification)| (id.clone(), notification.clone()))
            .collect();
        for id in self.files(receiver) {
            let path = self.file(receiver, &id);
            // Another process may have delivered it since.
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            match serde_json::from_str(&text) {
                Ok(notification) => {
                    waiting.insert(id, notification);
                }
                Err(error) => {
                    let path = path.display();
                    warn(&format!(
                        "{path} is no notification, and is dropped: {error}"
                    ));
                    self.remove(receiver, &id);
                }
            }
        }
        waiting.into_values().collect()
    }

    /// Removes a notification that was delivered or given up.
    pub(super) fn remove(&self, receiver: &str, id: &str) {
        let key = (receiver.to_owned(), id.to_owned());
        self.unwritten().remove(&key);
        let path = self.file(receiver, id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let path = path.display();
                warn(&format!(
                    "cannot remove {path}, so it is sent again: {error}"
                ));
            }
            _ => {}
        }
    }

    /// Takes the lock of the process that sends to a receiver. Returns `None` if another process holds it.
    pub(super) fn lock_sender(&self, receiver: &str) -> Option<File> {
        self.register(receiver);
        let lock = open_lock(&self.directory.join(receiver)).ok()?;
        lock.try_lock().ok().map(|()| lock)
    }

    /// Waits for the lock of the process that adds the ends of deployments. It is held for milliseconds.
    pub(super) fn lock_ends(&self) -> io::Result<File> {
        fs::create_dir_all(&self.directory)?;
        let lock = open_lock(&self.directory)?;
        lock.lock()?;
        Ok(lock)
    }

    /// The file that says which end of a deployment was added last.
    pub(super) fn ends_file(&self) -> PathBuf {
        self.directory.join("ends.json")
    }

    fn file(&self, receiver: &str, id: &str) -> PathBuf {
        self.directory.join(receiver).join(format!("{id}.json"))
    }

    /// The identifiers of the written notifications, oldest first.
    fn files(&self, receiver: &str) -> Vec<String> {
        let entries = fs::read_dir(self.directory.join(receiver));
        let mut ids: Vec<String> = entries
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                name.strip_suffix(".json").map(str::to_owned)
            })
            .collect();
        ids.sort();
        ids
    }

    fn unwritten(&self) -> MutexGuard<'_, BTreeMap<(String, String), Notification>> {
        self.unwritten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_lock(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false);
    options.open(directory.join("lock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::notify::test_notification;

    #[test]
    fn undelivered_notifications_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Spool::in_directory(directory.path().join("notifications"));
        let [first, second] = [0, 1].map(test_notification);
        let spool = open();
        spool.add("webhook", &second);
        spool.add("webhook", &first);
        spool.add("slack", &first);
        spool.remove("slack", &first.id);
        let spool = open();
        assert_eq!(spool.waiting("webhook"), [first.clone(), second.clone()]);
        assert_eq!(spool.waiting("slack"), []);
        spool.remove("webhook", &first.id);
        assert_eq!(open().waiting("webhook"), [second]);
    }

    #[test]
    fn full_queue_drops_its_oldest_notification() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        fs::create_dir(directory.path().join("webhook")).unwrap();
        let notifications: Vec<Notification> = (0..=CAPACITY).map(test_notification).collect();
        // Written without waiting for the disk, which takes long for so many files.
        for notification in &notifications[..CAPACITY] {
            let text = serde_json::to_string(notification).unwrap();
            fs::write(spool.file("webhook", &notification.id), text).unwrap();
        }
        spool.add("webhook", &notifications[CAPACITY]);
        assert_eq!(spool.waiting("webhook"), &notifications[1..]);
    }

    #[test]
    fn unwritable_notification_waits_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("notifications");
        fs::write(&file, "in the way").unwrap();
        let spool = Spool::in_directory(file);
        let notification = test_notification(0);
        spool.add("webhook", &notification);
        let waiting = spool.waiting("webhook");
        assert_eq!(waiting, std::slice::from_ref(&notification));
        spool.remove("webhook", &notification.id);
        assert_eq!(spool.waiting("webhook"), []);
    }

    #[test]
    fn damaged_notification_is_dropped_and_others_wait() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let notification = test_notification(1);
        spool.add("webhook", &notification);
        let damaged = spool.file("webhook", "0");
        fs::write(&damaged, "{").unwrap();
        assert_eq!(spool.waiting("webhook"), [notification]);
        assert!(!damaged.exists());
    }

    #[test]
    fn one_process_at_a_time_sends_to_a_receiver() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::in_directory(directory.path().to_owned());
        let held = spool.lock_sender("webhook").unwrap();
        assert!(spool.lock_sender("webhook").is_none());
        assert!(spool.lock_sender("slack").is_some());
        drop(held);
        assert!(spool.lock_sender("webhook").is_some());
    }
}
