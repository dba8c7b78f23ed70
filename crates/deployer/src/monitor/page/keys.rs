//! The file of named keys, which is read again when it changes.
//!
//! A line is `NAME ROLE DIGEST`: who has the key, whether that person may `see` or also `act`, and the SHA-256 of the key in
//! hexadecimal digits. `#` begins a comment.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use clap::ValueEnum;
use model_repository::hexadecimal;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::monitor::page::{
    notes::Notes,
    token::{self, SecretDigest, digest, parse_digest},
};

/// What a key begins with, so that a scanner for leaked secrets can find one.
const PREFIX: &str = "deployer-page-";

/// Longer names do not fit in a line of the history.
const MAX_NAME: usize = 64;

/// More keys than this are a mistake, and each sign-in compares all of them.
const MAX_KEYS: usize = 256;

/// What a person may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See everything, and change nothing.
    See,
    /// See everything, and approve, reject, abort, promote, roll back, and let a color stand in.
    Act,
}

impl Role {
    /// As in the file.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::See => "see",
            Self::Act => "act",
        }
    }
}

/// A key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedKey {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) digest: SecretDigest,
}

/// The keys of the file `path`.
pub(crate) struct KeyFile {
    path: PathBuf,
    last: Mutex<LastRead>,
    notes: Notes,
}

#[derive(Default)]
struct LastRead {
    /// `None` before the first reading, and if there is no file.
    stamp: Option<FileStamp>,
    keys: Arc<[NamedKey]>,
}

/// Changes with every change of a file: inode, size, and the time of the last change in seconds and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp(u64, u64, i64, i64);

impl KeyFile {
    /// Reads the file. Problems become notes.
    pub(crate) fn read(path: &Path, notes: Notes) -> Self {
        let file = Self {
            path: path.to_owned(),
            last: Mutex::default(),
            notes,
        };
        file.current();
        file
    }

    /// Returns the keys, and reads the file first if it has changed. Without a file there are none.
    pub(crate) fn current(&self) -> Arc<[NamedKey]> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = fs::metadata(&self.path).ok().map(|metadata| {
            FileStamp(
                metadata.ino(),
                metadata.size(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            )
        });
        if stamp != last.stamp {
            last.stamp = stamp;
            last.keys = self.read_keys().into();
        }
        Arc::clone(&last.keys)
    }

    /// Returns the name and the role of a key, if the file has it.
    pub(crate) fn find(&self, key: &str) -> Option<NamedKey> {
        let keys = self.current();
        let given = digest(key.trim());
        let place = token::position(keys.iter().map(|key| &key.digest), &given)?;
        keys.get(place).cloned()
    }

    fn read_keys(&self) -> Vec<NamedKey> {
        let path = self.path.display();
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                self.notes
                    .send(format!("cannot read the page's keys in {path}: {error}"));
                return Vec::new();
            }
        };
        let Keys { keys, problems } = Keys::parse(&text);
        for (line, problem) in problems {
            self.notes
                .send(format!("{path}, line {line} is ignored: {problem}"));
        }
        keys
    }
}

/// The keys of a text, and its invalid lines, counted from 1.
struct Keys {
    keys: Vec<NamedKey>,
    problems: Vec<(usize, String)>,
}

impl Keys {
    fn parse(text: &str) -> Self {
        let (mut keys, mut problems) = (Vec::<NamedKey>::new(), Vec::new());
        for (place, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default();
            if line.trim().is_empty() {
                continue;
            }
            match parse_line(line, &keys) {
                Ok(key) => keys.push(key),
                Err(problem) => problems.push((place + 1, problem)),
            }
        }
        Self { keys, problems }
    }
}

/// Reads a line. The error contains nothing of the line but its name, because a person may have written a key there.
fn parse_line(line: &str, before: &[NamedKey]) -> Result<NamedKey, String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let &[name, role, hash] = &fields[..] else {
        return Err(format!(
            "expected NAME ROLE DIGEST, but it has {} fields",
            fields.len()
        ));
    };
    check_name(name)?;
    let role = Role::from_str(role, false)
        .map_err(|_| format!("the role of {name} is neither see nor act"))?;
    let digest = parse_digest(hash).ok_or_else(|| {
        format!("the digest of {name} does not have 64 hexadecimal digits; `deployer page-key` makes such a line")
    })?;
    if before.iter().any(|key| key.name == name) {
        return Err(format!("{name} has a key in an earlier line"));
    }
    if before.iter().any(|key| key.digest == digest) {
        return Err(format!("the key of {name} is in an earlier line"));
    }
    if before.len() >= MAX_KEYS {
        return Err(format!("there are {MAX_KEYS} keys before it"));
    }
    Ok(NamedKey {
        name: name.to_owned(),
        role,
        digest,
    })
}

/// Names appear in the history, in reports, and in notifications.
fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    if name.is_empty() || name.len() > MAX_NAME || !name.bytes().all(is_plain) {
        return Err(format!(
            "a name has 1 to {MAX_NAME} letters, digits, dots, underscores, hyphens, and @"
        ));
    }
    Ok(())
}

/// Why a key cannot be added.
#[derive(Debug, Error)]
pub(crate) enum AddKeyError {
    /// The name cannot be used.
    #[error("{0}")]
    Name(String),
    /// The file cannot be read or written.
    #[error("cannot add a key to {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the operating system reported.
        source: io::Error,
    },
}

/// Makes a key, appends its line to the file, and returns the key. Only its digest is kept.
pub(crate) fn add_key(path: &Path, name: &str, role: Role) -> Result<String, AddKeyError> {
    check_name(name).map_err(AddKeyError::Name)?;
    let failed = |source| AddKeyError::File {
        path: path.to_owned(),
        source,
    };
    let key = token::random().map_err(failed)?;
    let key = format!("{PREFIX}{key}");
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read.map_err(failed)?,
    };
    let Keys { keys, .. } = Keys::parse(&before);
    let line = format!("{name} {} {}", role.as_str(), hexadecimal(&digest(&key)));
    parse_line(&line, &keys).map_err(|problem| {
        AddKeyError::Name(format!(
            "{problem}: remove that line of {} first, or choose another name",
            path.display()
        ))
    })?;
    let break_before = if before.is_empty() || before.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    append(path, &format!("{break_before}{line}\n")).map_err(failed)?;
    Ok(key)
}

/// Appends durably. A new file, and a new directory for it, are readable for their owner only.
fn append(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent().filter(|it| !it.as_os_str().is_empty()) {
        let mut new = DirBuilder::new();
        new.recursive(true).mode(0o700).create(directory)?;
    }
    let mut file: File = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::monitor::page::notes::received;

    #[test]
    fn added_key_is_found_by_its_text_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page-keys");
        let (notes, _receiver) = Notes::channel();
        let file = KeyFile::read(&path, notes);
        assert_eq!(file.find(""), None);
        let key = add_key(&path, "ann", Role::Act).unwrap();
        let found = file.find(&format!(" {key}\n")).unwrap();
        assert_eq!((&*found.name, found.role), ("ann", Role::Act));
        assert_eq!(file.find(&key[1..]), None);
        assert_eq!(file.find(&hexadecimal(&found.digest)), None);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains(&key), "{text}");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn missing_directory_of_keys_is_created_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets/page-keys");
        add_key(&path, "ann", Role::See).unwrap();
        for (path, expected) in [(path.parent().unwrap(), 0o700), (&path, 0o600)] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, expected, "{}", path.display());
        }
    }

    #[test]
    fn key_file_is_read_again_when_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page-keys");
        let ann = add_key(&path, "ann", Role::See).unwrap();
        let (notes, _receiver) = Notes::channel();
        let file = KeyFile::read(&path, notes);
        let bob = add_key(&path, "bob", Role::See).unwrap();
        assert!(file.find(&ann).is_some() && file.find(&bob).is_some());
        // The same size as before.
        let text = fs::read_to_string(&path).unwrap().replace("ann", "eve");
        fs::write(&path, text).unwrap();
        assert_eq!(file.find(&ann).unwrap().name, "eve");
        fs::remove_file(&path).unwrap();
        assert_eq!(file.find(&ann), None);
    }

    #[test]
    fn damaged_line_is_named_and_ignored() {
        let digest = "0f".repeat(32);
        let other = "1e".repeat(32);
        let good = format!("ann act {digest} # since May\n");
        for (line, problem) in [
            ("bob act", "has 2 fields"),
            ("b/b act X", "a name has"),
            (&format!("bob own {other}"), "role of bob"),
            ("bob act deployer-page-00112233", "digest of bob"),
            (&format!("ann see {other}"), "ann has a key"),
            (&format!("bob see {digest}"), "key of bob is in"),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("page-keys");
            fs::write(&path, format!("# people\n\n{good}{line}\n")).unwrap();
            let (notes, mut receiver) = Notes::channel();
            let file = KeyFile::read(&path, notes);
            assert_eq!(file.current().len(), 1, "{line}");
            let [note] = &received(&mut receiver)[..] else {
                panic!("expected one note about {line}");
            };
            assert!(note.contains("page-keys, line 4 is ignored"), "{note}");
            assert!(note.contains(problem), "{note}");
            assert!(!note.contains("00112233"), "{note}");
        }
    }

    #[test]
    fn key_for_a_name_that_has_one_is_not_added() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("page-keys");
        add_key(&path, "ann", Role::See).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        for (name, problem) in [
            ("ann", "has a key in an earlier line"),
            ("a b", "a name has"),
        ] {
            let error = add_key(&path, name, Role::Act).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
}
