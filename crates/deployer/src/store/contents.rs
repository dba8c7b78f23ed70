//! What the store holds, and how it gets to the disk.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};

use crate::{
    cluster::Truth,
    color::Color,
    monitor::page::token,
    ports::{PortError, RouterEntry, Version},
    state::atomic_file,
};

/// More routers than this are a mistake.
const MAX_ROUTERS: usize = 1000;

/// What the file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Contents {
    /// Names this store. Versions contain it, so that no version of another store is mistaken for one of this store.
    id: String,
    /// Grows with each write of the truth.
    writes: u64,
    pub(super) truth: Truth,
    /// Sorted by name.
    pub(super) routers: Vec<RouterEntry>,
}

impl Contents {
    pub(super) fn version(&self) -> Version {
        Version(format!("{}-{}", self.id, self.writes))
    }
}

/// Why the store did not write.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It holds another version.
    Conflict(Version),
    /// The request cannot be fulfilled.
    Invalid(String),
    /// The disk failed. The write may be in force after the next start.
    Disk(io::Error),
}

/// The file and its contents. One process writes it, and answers only what the disk has.
pub(super) struct StoreFile {
    path: PathBuf,
    contents: RwLock<Arc<Contents>>,
    /// Held from the comparison until the disk has the write.
    writer: Mutex<()>,
    /// The kernel releases this lock when the process ends.
    _lock: File,
}

impl StoreFile {
    /// Creates the file of a new store: `active` has the traffic, and no color is fit. Fails if the file exists.
    pub(super) fn create(path: &Path, active: Color) -> Result<(), PortError> {
        let _lock = lock(path)?;
        if path.exists() {
            return Err(PortError::Invalid(format!(
                "{} exists already: start the store without --create",
                path.display()
            )));
        }
        let failed = |error: io::Error| {
            let message = format!("cannot create {}: {error}", path.display());
            PortError::of_file(&error, message)
        };
        let id = token::random().map_err(failed)?;
        let contents = Contents {
            id: id[..16].to_owned(),
            writes: 0,
            truth: Truth::of_new_store(active),
            routers: Vec::new(),
        };
        write(path, &contents).map_err(failed)
    }

    /// Opens the file. A missing file is no new store: all routers would follow it to its active color.
    pub(super) fn open(path: &Path) -> Result<Self, PortError> {
        let lock = lock(path)?;
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| {
            let message = if error.kind() == io::ErrorKind::NotFound {
                format!(
                    "the store's file {shown} does not exist. For a new store, create it once with `deployer store --create blue --file {shown}`, or with green if green has the traffic"
                )
            } else {
                format!("cannot use the store's file {shown}: {error}")
            };
            PortError::of_file(&error, message)
        })?;
        let contents = serde_json::from_str(&text).map_err(|error| {
            PortError::Invalid(format!(
                "the store's file {shown} is damaged: {error}. Restore it from a backup only if no router is open: an older file could send traffic to another color than the routers do"
            ))
        })?;
        Ok(Self {
            path: path.to_owned(),
            contents: RwLock::new(Arc::new(contents)),
            writer: Mutex::default(),
            _lock: lock,
        })
    }

    /// Returns what the disk holds.
    pub(super) fn contents(&self) -> Arc<Contents> {
        Arc::clone(&self.contents.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the truth if the store still holds `version`. Returns when the disk has it.
    pub(super) fn replace(&self, version: &Version, truth: Truth) -> Result<Version, Refusal> {
        self.change(|contents| {
            let current = contents.version();
            if current != *version {
                return Err(Refusal::Conflict(current));
            }
            if truth.generation < contents.truth.generation {
                return Err(Refusal::Invalid(format!(
                    "generation {} is older than {}, which the store holds",
                    truth.generation, contents.truth.generation
                )));
            }
            contents.writes += 1;
            contents.truth = truth;
            Ok(contents.version())
        })
    }

    /// Registers a router, or replaces the entry of its name.
    pub(super) fn register(&self, router: RouterEntry) -> Result<(), Refusal> {
        self.change(|contents| {
            check(&router)?;
            contents.routers.retain(|known| known.name != router.name);
            if contents.routers.len() >= MAX_ROUTERS {
                return Err(Refusal::Invalid(format!(
                    "{MAX_ROUTERS} routers are registered: unregister those that are gone"
                )));
            }
            contents.routers.push(router);
            contents
                .routers
                .sort_by(|one, other| one.name.cmp(&other.name));
            Ok(())
        })
    }

    /// Removes the router of this name and incarnation, if there is one.
    pub(super) fn unregister(&self, name: &str, incarnation: u64) -> Result<(), Refusal> {
        self.change(|contents| {
            let gone = |known: &RouterEntry| known.name == name && known.incarnation == incarnation;
            contents.routers.retain(|known| !gone(known));
            Ok(())
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut Contents) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.contents();
        let mut next = Contents::clone(&current);
        let result = change(&mut next)?;
        if next != *current {
            write(&self.path, &next).map_err(Refusal::Disk)?;
            let mut contents = self
                .contents
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *contents = Arc::new(next);
        }
        Ok(result)
    }
}

/// Names and URLs become paths of requests, and names of directories.
fn check(router: &RouterEntry) -> Result<(), Refusal> {
    let RouterEntry { name, url, .. } = router;
    if !is_name(name) {
        return Err(Refusal::Invalid(format!(
            "{name:?} is not a router's name: use 1 to 63 letters, digits, '-', '_', and '.', the first one a letter or digit"
        )));
    }
    let scheme = ["http://", "https://"].iter().any(|it| url.starts_with(it));
    if !scheme || url.len() > 500 || url.chars().any(|it| it.is_whitespace() || it.is_control()) {
        return Err(Refusal::Invalid(format!(
            "{url:?} is not the URL of an agent, such as http://10.0.0.5:8084"
        )));
    }
    Ok(())
}

/// Returns whether `name` may name a router.
pub(crate) fn is_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    (1..=63).contains(&bytes.len()) && bytes.iter().all(allowed) && bytes[0].is_ascii_alphanumeric()
}

/// Lets one process at a time use the file.
fn lock(path: &Path) -> Result<File, PortError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let failed = |error: &io::Error| {
        let message = format!("cannot lock {}: {error}", name.display());
        PortError::of_file(error, message)
    };
    let file = File::create(&name).map_err(|error| failed(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(PortError::Other(format!(
            "another store uses {}: end it first",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(failed(&error)),
    }
}

fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(contents)?;
    text.push('\n');
    atomic_file::replace(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::RouterFlags;

    /// A new store with the file `path`.
    fn new(path: &Path) -> StoreFile {
        StoreFile::create(path, Color::Blue).unwrap();
        StoreFile::open(path).unwrap()
    }

    fn router(name: &str, incarnation: u64) -> RouterEntry {
        RouterEntry {
            name: name.to_owned(),
            url: "http://127.0.0.1:1".to_owned(),
            incarnation,
        }
    }

    #[test]
    fn write_on_an_old_version_conflicts_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = new(&directory.path().join("store.json"));
        let first = store.contents().version();
        let flags = RouterFlags {
            shadow: true,
            ..RouterFlags::default()
        };
        let truth = Truth::default().decide(flags);
        let second = store.replace(&first, truth.clone()).unwrap();
        assert_ne!(first, second);
        let again = store.replace(&first, truth.decide(RouterFlags::default()));
        assert!(matches!(again, Err(Refusal::Conflict(current)) if current == second));
        assert_eq!(store.contents().truth, truth);
    }

    #[test]
    fn older_generation_is_refused_on_the_current_version() {
        let directory = tempfile::tempdir().unwrap();
        let store = new(&directory.path().join("store.json"));
        let truth = Truth::default().decide(RouterFlags::default());
        let version = store.contents().version();
        let version = store.replace(&version, truth.clone()).unwrap();
        let older = store.replace(&version, Truth::default());
        assert!(matches!(older, Err(Refusal::Invalid(_))), "{older:?}");
        assert_eq!(store.contents().truth, truth);
    }

    #[test]
    fn contents_survive_a_restart_and_one_process_owns_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.json");
        let store = new(&path);
        store.register(router("b", 1)).unwrap();
        store.register(router("a", 2)).unwrap();
        store.register(router("b", 3)).unwrap();
        let error = StoreFile::open(&path).map(drop).unwrap_err();
        assert!(
            error.to_string().starts_with("another store uses"),
            "{error}"
        );
        let contents = store.contents();
        drop(store);
        let store = StoreFile::open(&path).unwrap();
        assert_eq!(store.contents(), contents);
        assert_eq!(contents.routers, [router("a", 2), router("b", 3)]);
    }

    #[test]
    fn unregistering_an_earlier_incarnation_keeps_the_router() {
        let directory = tempfile::tempdir().unwrap();
        let store = new(&directory.path().join("store.json"));
        store.register(router("a", 2)).unwrap();
        store.unregister("a", 1).unwrap();
        assert_eq!(store.contents().routers, [router("a", 2)]);
        store.unregister("a", 2).unwrap();
        assert_eq!(store.contents().routers, []);
    }

    #[test]
    fn damaged_file_is_not_replaced_by_a_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.json");
        fs::write(&path, "{").unwrap();
        let error = StoreFile::open(&path).map(drop).unwrap_err();
        assert!(error.to_string().contains("is damaged"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");
    }

    #[test]
    fn store_without_its_file_does_not_start_and_an_existing_file_is_not_created_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.json");
        let error = StoreFile::open(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        assert!(!path.exists());
        StoreFile::create(&path, Color::Green).unwrap();
        let store = StoreFile::open(&path).unwrap();
        assert_eq!(store.contents().truth.flags.active, Color::Green);
        drop(store);
        let error = StoreFile::create(&path, Color::Blue).unwrap_err();
        assert!(error.to_string().contains("exists already"), "{error}");
        let store = StoreFile::open(&path).unwrap();
        assert_eq!(store.contents().truth.flags.active, Color::Green);
    }

    #[test]
    fn names_that_are_no_path_component_are_refused() {
        for name in ["a", "router-1", "eu.west_2"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "..", ".a", "a/b", "a b", "ä", &"a".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
    }
}
