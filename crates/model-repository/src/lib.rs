//! Where a release of a model lies on disk, and the digest that identifies its files.
//!
//! The model server reports the digest of what it serves and the deployer computes the digest of
//! what it wants served; both take it from here, so that they can only differ when the files do.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The graph with its weights.
pub const MODEL_FILE: &str = "model.onnx";
/// The tokenizer, in the format of Hugging Face's `tokenizers`.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// Labels and limits, as Hugging Face's exporters write them.
pub const CONFIG_FILE: &str = "config.json";

/// Every file that decides what a release of a text model answers, in the order in which they are
/// digested.
const TEXT_FILES: [&str; 3] = [CONFIG_FILE, MODEL_FILE, TOKENIZER_FILE];

/// The same of a model that takes tensors.
const TENSOR_FILES: [&str; 1] = [MODEL_FILE];

/// Why a release could not be located or read.
#[derive(Debug, Error)]
pub enum RepositoryError {
    /// A name or version that cannot be a directory below the model root.
    #[error(
        "{what} {value:?} is not usable: expected letters, digits, '.', '_' or '-', starting with a letter or digit"
    )]
    BadName {
        /// `model name` or `model version`.
        what: &'static str,
        /// The text that was given.
        value: String,
    },
    /// There is no directory for this model.
    #[error("no model {name:?} in {root}: expected the directory {root}/{name}")]
    UnknownModel {
        /// The model's name.
        name: String,
        /// The model root that was searched.
        root: PathBuf,
    },
    /// The model exists, this version of it does not.
    #[error(
        "no version {version:?} of model {name:?}: expected the directory {path}; present: {present}"
    )]
    UnknownVersion {
        /// The version that was asked for.
        version: String,
        /// The model's name.
        name: String,
        /// The directory that was expected.
        path: PathBuf,
        /// The versions that do exist, or `none`.
        present: String,
    },
    /// One of the files of a release cannot be read.
    #[error(
        "cannot read {path}: {source}; a release holds config.json, model.onnx and tokenizer.json, or model.onnx alone"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// One release of a model on disk: `ROOT/NAME/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseDirectory {
    path: PathBuf,
}

impl ReleaseDirectory {
    /// Locates release `version` of model `name` below `root`.
    ///
    /// Names are single path segments, so no name reaches outside `root`.
    pub fn locate(root: &Path, name: &str, version: &str) -> Result<Self, RepositoryError> {
        check_segment("model name", name)?;
        check_segment("model version", version)?;
        let model = root.join(name);
        if !model.is_dir() {
            return Err(RepositoryError::UnknownModel {
                name: name.to_owned(),
                root: root.to_owned(),
            });
        }
        let path = model.join(version);
        if !path.is_dir() {
            return Err(RepositoryError::UnknownVersion {
                version: version.to_owned(),
                name: name.to_owned(),
                path,
                present: directories_in(&model),
            });
        }
        Ok(Self { path })
    }

    /// The path of one of the release's files.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Whether the release says how to read texts. One that has neither a tokenizer nor labels is
    /// a model for tensors; with one of the two, the other is missing.
    #[must_use]
    pub fn reads_texts(&self) -> bool {
        self.file(CONFIG_FILE).exists() || self.file(TOKENIZER_FILE).exists()
    }

    /// The SHA-256 over the release's files, as 64 lowercase hexadecimal digits.
    ///
    /// It is the digest of the listing that `sha256sum` prints for the files, so a person can
    /// check it: `sha256sum config.json model.onnx tokenizer.json | sha256sum`. Of a model for
    /// tensors the listing has one line.
    pub fn digest(&self) -> Result<String, RepositoryError> {
        let names: &[&str] = if self.reads_texts() {
            &TEXT_FILES
        } else {
            &TENSOR_FILES
        };
        let mut listing = String::new();
        for name in names {
            let path = self.file(name);
            // Piece by piece: a large model need not be in memory for it.
            let digest_of = || {
                let mut file = io::BufReader::with_capacity(1 << 16, fs::File::open(&path)?);
                let mut digest = Sha256::new();
                loop {
                    let piece = file.fill_buf()?;
                    if piece.is_empty() {
                        return Ok(digest.finalize());
                    }
                    digest.update(piece);
                    let length = piece.len();
                    file.consume(length);
                }
            };
            let digest = digest_of().map_err(|source| RepositoryError::Unreadable {
                path: path.clone(),
                source,
            })?;
            listing.push_str(&hexadecimal(&digest));
            listing.push_str("  ");
            listing.push_str(name);
            listing.push('\n');
        }
        Ok(hexadecimal(&Sha256::digest(listing)))
    }
}

fn check_segment(what: &'static str, value: &str) -> Result<(), RepositoryError> {
    let starts_well = value.starts_with(|first: char| first.is_ascii_alphanumeric());
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if starts_well && value.chars().all(usable) {
        Ok(())
    } else {
        Err(RepositoryError::BadName {
            what,
            value: value.to_owned(),
        })
    }
}

fn directories_in(path: &Path) -> String {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root_with_v1() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let release = root.path().join("sentiment/v1");
        fs::create_dir_all(&release).unwrap();
        for name in TEXT_FILES {
            fs::write(release.join(name), name).unwrap();
        }
        root
    }

    #[test]
    fn digest_is_the_one_that_sha256sum_gives() {
        let root = root_with_v1();
        let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
        let by_shell = std::process::Command::new("sh")
            .args([
                "-c",
                "sha256sum config.json model.onnx tokenizer.json | sha256sum",
            ])
            .current_dir(root.path().join("sentiment/v1"))
            .output()
            .unwrap();
        let printed = String::from_utf8(by_shell.stdout).unwrap();
        assert_eq!(
            Some(release.digest().unwrap().as_str()),
            printed.split(' ').next()
        );
    }

    #[test]
    fn digest_changes_with_any_file() {
        let root = root_with_v1();
        let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
        for name in TEXT_FILES {
            let before = release.digest().unwrap();
            fs::write(release.file(name), "changed").unwrap();
            assert_ne!(before, release.digest().unwrap(), "{name}");
        }
    }

    #[test]
    fn unknown_version_names_the_expected_path_and_what_is_there() {
        let root = root_with_v1();
        let error = ReleaseDirectory::locate(root.path(), "sentiment", "v9").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("sentiment/v9"), "{message}");
        assert!(message.ends_with("present: v1"), "{message}");
    }

    #[test]
    fn missing_file_is_named() {
        let root = root_with_v1();
        let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
        fs::remove_file(release.file(MODEL_FILE)).unwrap();
        let message = release.digest().unwrap_err().to_string();
        assert!(message.contains("sentiment/v1/model.onnx"), "{message}");
    }

    #[test]
    fn a_release_without_tokenizer_and_labels_is_its_graph_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("vision/v1");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(MODEL_FILE), "a graph").unwrap();
        let release = ReleaseDirectory::locate(root.path(), "vision", "v1").unwrap();
        assert!(!release.reads_texts());
        let alone = release.digest().unwrap();
        fs::write(path.join(MODEL_FILE), "another graph").unwrap();
        assert_ne!(release.digest().unwrap(), alone);
        // Half of what texts need is a mistake, not another kind of release.
        fs::write(path.join(CONFIG_FILE), "{}").unwrap();
        assert!(release.reads_texts() && release.digest().is_err());
    }

    #[test]
    fn names_cannot_leave_the_model_root() {
        let root = root_with_v1();
        for bad in ["..", ".", "", "a/b", "/etc", "../sentiment", "-v", "v\n1"] {
            let result = ReleaseDirectory::locate(root.path(), "sentiment", bad);
            assert!(
                matches!(result, Err(RepositoryError::BadName { .. })),
                "{bad:?}"
            );
        }
    }
}
