//! API keys from a file that is reloaded when it changes.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use thiserror::Error;
use tracing::{error, info};

/// Shorter keys can be guessed.
const MIN_KEY_LENGTH: usize = 16;

/// How often the file is checked for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why a file of API keys cannot be used. No message contains a key.
#[derive(Debug, Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("cannot read the API keys in {path}: {source}")]
    Unreadable {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A line is not a valid key.
    #[error(
        "line {line} of {path} is not an API key; expected at least {MIN_KEY_LENGTH} visible ASCII characters without a space"
    )]
    Line {
        /// The path of the file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
    },
    /// The file has no key.
    #[error("{0} has no API key, so every request would be refused; expected one on each line")]
    Empty(PathBuf),
}

/// The digest of a key. All digests have the same length, so a comparison takes the same time for every key.
type KeyDigest = [u8; 32];

/// The keys of a file.
pub(crate) struct ApiKeys {
    path: PathBuf,
    digests: RwLock<Arc<[KeyDigest]>>,
    last_check: Mutex<FileStamp>,
}

/// When the file was checked, and its modification time and size then.
struct FileStamp {
    at: Instant,
    stamp: Option<(SystemTime, u64)>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ApiKeys")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Reads the keys, one on each line. Ignores blank lines and lines that start with `#`.
    pub(crate) fn read(path: &Path) -> Result<Self, KeysError> {
        let stamp = stamp(path);
        Ok(Self {
            digests: RwLock::new(digests(path)?),
            path: path.to_owned(),
            last_check: Mutex::new(FileStamp {
                at: Instant::now(),
                stamp,
            }),
        })
    }

    /// Whether `key` is valid. Compares it with all keys in constant time.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.reload_if_changed();
        let given: KeyDigest = Sha256::digest(key).into();
        let digests = Arc::clone(&self.digests.read().unwrap_or_else(PoisonError::into_inner));
        let known = |sum: Choice, digest: &KeyDigest| sum | digest.ct_eq(&given);
        digests.iter().fold(Choice::from(0), known).into()
    }

    /// Reloads the file if it has changed. If the new content is invalid, the old keys stay valid.
    fn reload_if_changed(&self) {
        let mut last_check = self
            .last_check
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last_check.at.elapsed() < CHECK_INTERVAL {
            return;
        }
        last_check.at = Instant::now();
        let stamp = stamp(&self.path);
        if stamp == last_check.stamp {
            return;
        }
        last_check.stamp = stamp;
        match digests(&self.path) {
            Ok(digests) => {
                info!(keys = digests.len(), "API keys read again");
                *self.digests.write().unwrap_or_else(PoisonError::into_inner) = digests;
            }
            Err(error) => error!(%error, "the API keys of before stay in force"),
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn digests(path: &Path) -> Result<Arc<[KeyDigest]>, KeysError> {
    let content = fs::read_to_string(path).map_err(|source| KeysError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    let digest = |(place, line): (usize, &str)| {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let is_key =
            line.len() >= MIN_KEY_LENGTH && line.bytes().all(|byte| byte.is_ascii_graphic());
        Some(if is_key {
            Ok(Sha256::digest(line).into())
        } else {
            Err(KeysError::Line {
                path: path.to_owned(),
                line: place + 1,
            })
        })
    };
    let digests: Arc<[KeyDigest]> = content
        .lines()
        .enumerate()
        .filter_map(digest)
        .collect::<Result<_, _>>()?;
    if digests.is_empty() {
        return Err(KeysError::Empty(path.to_owned()));
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn key_file_ignores_comments_and_blank_lines() {
        let file = file("# team a\n  key-of-team-a-0123  \n\nkey-of-team-b-0123\n");
        let keys = ApiKeys::read(file.path()).unwrap();
        assert!(keys.contains(b"key-of-team-a-0123") && keys.contains(b"key-of-team-b-0123"));
        assert!(!keys.contains(b"key-of-team-c-0123") && !keys.contains(b""));
    }

    #[test]
    fn invalid_key_error_names_the_line_and_not_the_key() {
        for (content, line) in [("short\n", 1), ("# a\nkey with spaces inside\n", 2)] {
            let file = file(content);
            let error = ApiKeys::read(file.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("line {line} of")), "{error}");
            assert!(
                !error.contains("short") && !error.contains("spaces inside"),
                "{error}"
            );
        }
        let error = ApiKeys::read(file("# none\n").path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("no API key"), "{error}");
    }

    #[test]
    fn debug_output_contains_no_keys() {
        let keys = ApiKeys::read(file("key-of-team-a-0123").path()).unwrap();
        assert!(!format!("{keys:?}").contains("key-of"));
    }
}
