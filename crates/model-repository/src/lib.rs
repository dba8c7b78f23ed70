//! Locates a release of a model on disk, and computes the digest of its files.
//!
//! The model server reports the digest of the release that it serves. The deployer compares it with the
//! digest of the release that it deploys. Both use this crate, so the digests differ only if the files do.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The ONNX graph with its weights.
pub const MODEL_FILE: &str = "model.onnx";
/// The tokenizer, in the JSON format of Hugging Face's `tokenizers`.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The labels and the token limit, in the format of Hugging Face's `transformers`.
pub const CONFIG_FILE: &str = "config.json";

/// The files that determine the predictions of a text model, in the order of the digest.
const TEXT_FILES: [&str; 3] = [CONFIG_FILE, MODEL_FILE, TOKENIZER_FILE];

/// The files that determine the outputs of a tensor model.
const TENSOR_FILES: [&str; 1] = [MODEL_FILE];

/// A release cannot be located or read.
#[derive(Debug, Error)]
pub enum RepositoryError {
    /// The name or version is not allowed as the name of a directory below the model root.
    #[error(
        "{what} {value:?} is not usable: expected letters, digits, '.', '_' or '-', starting with a letter or digit"
    )]
    InvalidName {
        /// `model name` or `model version`.
        what: &'static str,
        /// The rejected text.
        value: String,
    },
    /// The model root has no directory for this model.
    #[error("no model {name:?} in {root}: expected the directory {root}/{name}")]
    UnknownModel {
        /// The model's name.
        name: String,
        /// The model root that was searched.
        root: PathBuf,
    },
    /// The model has no directory for this version.
    #[error(
        "no version {version:?} of model {name:?}: expected the directory {path}; present: {present}"
    )]
    UnknownVersion {
        /// The requested version.
        version: String,
        /// The model's name.
        name: String,
        /// The expected directory.
        path: PathBuf,
        /// The versions that exist, separated by commas, or `none`.
        present: String,
    },
    /// A file of the release cannot be read.
    #[error(
        "cannot read {path}: {source}; a release holds config.json, model.onnx and tokenizer.json, or model.onnx alone"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// One release of a model on disk: `ROOT/NAME/VERSION`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseDirectory {
    path: PathBuf,
}

impl ReleaseDirectory {
    /// Locates version `version` of model `name` below `root`.
    ///
    /// Both must be single path segments, so that no request leads out of `root`.
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
                present: list_directories(&model),
            });
        }
        Ok(Self { path })
    }

    /// Returns the path of a file of the release.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns whether the release is a text model. A release with neither a tokenizer nor labels is a
    /// tensor model. A release with only one of them is an incomplete text model.
    #[must_use]
    pub fn reads_texts(&self) -> bool {
        self.file(CONFIG_FILE).exists() || self.file(TOKENIZER_FILE).exists()
    }

    /// Computes the SHA-256 digest of the release's files, as 64 lowercase hexadecimal digits.
    ///
    /// The digest is that of the listing that `sha256sum` prints for the files, so a person can check it:
    /// `sha256sum config.json model.onnx tokenizer.json | sha256sum`. For a tensor model the listing has
    /// one line, `model.onnx`.
    pub fn digest(&self) -> Result<String, RepositoryError> {
        let names: &[&str] = if self.reads_texts() {
            &TEXT_FILES
        } else {
            &TENSOR_FILES
        };
        let mut listing = String::new();
        for name in names {
            let path = self.file(name);
            let digest = digest_of_file(&path)
                .map_err(|source| RepositoryError::Unreadable { path, source })?;
            listing.push_str(&digest);
            listing.push_str("  ");
            listing.push_str(name);
            listing.push('\n');
        }
        Ok(hexadecimal(&Sha256::digest(listing)))
    }
}

/// Reads the file in chunks, so that a large model does not have to fit into memory.
fn digest_of_file(path: &Path) -> io::Result<String> {
    let mut file = io::BufReader::with_capacity(1 << 16, fs::File::open(path)?);
    let mut digest = Sha256::new();
    loop {
        let chunk = file.fill_buf()?;
        if chunk.is_empty() {
            return Ok(hexadecimal(&digest.finalize()));
        }
        digest.update(chunk);
        let length = chunk.len();
        file.consume(length);
    }
}

fn check_segment(what: &'static str, value: &str) -> Result<(), RepositoryError> {
    let valid_start = value.starts_with(|first: char| first.is_ascii_alphanumeric());
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if valid_start && value.chars().all(valid) {
        Ok(())
    } else {
        Err(RepositoryError::InvalidName {
            what,
            value: value.to_owned(),
        })
    }
}

fn list_directories(path: &Path) -> String {
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
    fn digest_matches_sha256sum() {
        let root = root_with_v1();
        let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
        let output = std::process::Command::new("sh")
            .args([
                "-c",
                "sha256sum config.json model.onnx tokenizer.json | sha256sum",
            ])
            .current_dir(root.path().join("sentiment/v1"))
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
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
    fn unknown_version_error_names_path_and_present_versions() {
        let root = root_with_v1();
        let error = ReleaseDirectory::locate(root.path(), "sentiment", "v9").unwrap_err();
        let message = error.to_string();
        assert!(message.contains("sentiment/v9"), "{message}");
        assert!(message.ends_with("present: v1"), "{message}");
    }

    #[test]
    fn missing_file_error_names_its_path() {
        let root = root_with_v1();
        let release = ReleaseDirectory::locate(root.path(), "sentiment", "v1").unwrap();
        fs::remove_file(release.file(MODEL_FILE)).unwrap();
        let message = release.digest().unwrap_err().to_string();
        assert!(message.contains("sentiment/v1/model.onnx"), "{message}");
    }

    #[test]
    fn release_without_tokenizer_and_labels_is_tensor_model() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("vision/v1");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(MODEL_FILE), "one graph").unwrap();
        let release = ReleaseDirectory::locate(root.path(), "vision", "v1").unwrap();
        assert!(!release.reads_texts());
        let digest = release.digest().unwrap();
        fs::write(path.join(MODEL_FILE), "another graph").unwrap();
        assert_ne!(release.digest().unwrap(), digest);
        // Labels without a tokenizer are a mistake, not a tensor model.
        fs::write(path.join(CONFIG_FILE), "{}").unwrap();
        assert!(release.reads_texts() && release.digest().is_err());
    }

    #[test]
    fn version_cannot_lead_out_of_model_root() {
        let root = root_with_v1();
        for bad in ["..", ".", "", "a/b", "/etc", "../sentiment", "-v", "v\n1"] {
            let result = ReleaseDirectory::locate(root.path(), "sentiment", bad);
            assert!(
                matches!(result, Err(RepositoryError::InvalidName { .. })),
                "{bad:?}"
            );
        }
    }
}
