//! Locates a release of a model on disk, and computes the digest of its files.
//!
//! The model server reports the digest of the release that it serves. The deployer compares it with the
//! digest of the release that it deploys. Both use this crate, so the digests differ only if the files do.

mod graph_data;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{self, BufRead as _},
    path::{Component, Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// The tokenizer, in the JSON format of Hugging Face's `tokenizers`.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// The labels and the token limit, in the format of Hugging Face's `transformers`.
pub const CONFIG_FILE: &str = "config.json";

/// Requests that run before a server is ready; a release may have none.
pub const WARM_UP_FILE: &str = "warmup.jsonl";

/// The usual paths of the graph. The first one that exists is served.
const GRAPH_FILES: [&str; 2] = ["model.onnx", "onnx/model.onnx"];

/// The directories in which the only `.onnx` file is served if no graph has a usual path.
const GRAPH_DIRECTORIES: [&str; 2] = ["", "onnx/"];

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
    /// The release has no graph.
    #[error(
        "found neither {directory}/model.onnx, nor {directory}/onnx/model.onnx, nor another .onnx file there; a release holds config.json, model.onnx and tokenizer.json, or model.onnx alone"
    )]
    NoGraph {
        /// The directory of the release.
        directory: PathBuf,
    },
    /// The release has several graphs, and none has a usual path.
    #[error(
        "{directory} holds several graphs: {present}; rename the one to serve to model.onnx, or delete the others"
    )]
    SeveralGraphs {
        /// The directory of the release.
        directory: PathBuf,
        /// The paths of the graphs, separated by commas.
        present: String,
    },
    /// The graph keeps weights in a file that the release does not cover.
    #[error(
        "{graph} keeps weights in {location:?}, which {problem}; expected a file below the directory of the graph: copy the file there, or export the graph again"
    )]
    DataLocation {
        /// The graph.
        graph: PathBuf,
        /// The path of the file, as the graph names it.
        location: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The files with weights are unknown, so the digest would not cover them.
    #[error(
        "{graph} is damaged, and the files in which it keeps weights are unknown ({source}); copy or export the graph again"
    )]
    DamagedGraph {
        /// The graph.
        graph: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A file with weights is missing or cannot be read.
    #[error("cannot read {path}: {source}; {graph} keeps weights in this file: copy it there")]
    Data {
        /// The file with the weights.
        path: PathBuf,
        /// The graph that names it.
        graph: PathBuf,
        /// The error of the operating system.
        source: io::Error,
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
            let present = list(&model, Path::is_dir);
            return Err(RepositoryError::UnknownVersion {
                version: version.to_owned(),
                name: name.to_owned(),
                path,
                present: if present.is_empty() {
                    "none".to_owned()
                } else {
                    present.join(", ")
                },
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

    /// Returns the path of the graph, relative to the release: `model.onnx`, or else `onnx/model.onnx`, or else
    /// the only `.onnx` file in these two directories.
    pub fn graph(&self) -> Result<String, RepositoryError> {
        if let Some(usual) = GRAPH_FILES.iter().find(|name| self.file(name).exists()) {
            return Ok((*usual).to_owned());
        }
        let mut graphs: Vec<String> = GRAPH_DIRECTORIES
            .iter()
            .flat_map(|directory| {
                let names = list(&self.file(directory), Path::is_file).into_iter();
                names.map(move |name| format!("{directory}{name}"))
            })
            .filter(|name| Path::new(name).extension().is_some_and(|it| it == "onnx"))
            .collect();
        let directory = || self.path.clone();
        match (graphs.pop(), graphs.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(RepositoryError::NoGraph {
                directory: directory(),
            }),
            (Some(last), false) => {
                graphs.push(last);
                Err(RepositoryError::SeveralGraphs {
                    directory: directory(),
                    present: graphs.join(", "),
                })
            }
        }
    }

    /// Returns the files in which `graph` keeps weights. They exist, and are in the directory of the release.
    pub fn data_files(&self, graph: &str) -> Result<Vec<DataFile>, RepositoryError> {
        let path = self.file(graph);
        let unreadable = |path: &Path, source| RepositoryError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let locations = graph_data::locations(&path).map_err(|source| {
            if graph_data::is_damage(&source) {
                let graph = path.clone();
                RepositoryError::DamagedGraph { graph, source }
            } else {
                unreadable(&path, source)
            }
        })?;
        let distinct: BTreeSet<String> = locations.into_iter().collect();
        let root = fs::canonicalize(&self.path).map_err(|it| unreadable(&self.path, it))?;
        distinct
            .into_iter()
            .map(|location| {
                let file = check_location(graph, &location).and_then(|name| {
                    let target = fs::canonicalize(self.file(&name));
                    match target {
                        Ok(target) if !target.starts_with(&root) => {
                            Err("is a symbolic link out of the release")
                        }
                        Ok(target) if !target.is_file() => Err("is not a file"),
                        target => Ok((name, target)),
                    }
                });
                let (name, target) = file.map_err(|problem| RepositoryError::DataLocation {
                    graph: path.clone(),
                    location: location.clone(),
                    problem,
                })?;
                target.map_err(|source| RepositoryError::Data {
                    path: self.file(&name),
                    graph: path.clone(),
                    source,
                })?;
                Ok(DataFile { location, name })
            })
            .collect()
    }

    /// Returns the files that determine the predictions, and whether a server starts, relative to the release. They
    /// are in the order of the digest: that of `LC_ALL=C sort`.
    pub fn files(&self) -> Result<BTreeSet<String>, RepositoryError> {
        let graph = self.graph()?;
        let data = self.data_files(&graph)?;
        let mut files: BTreeSet<String> = data.into_iter().map(|file| file.name).collect();
        files.insert(graph);
        if self.reads_texts() {
            files.extend([CONFIG_FILE, TOKENIZER_FILE].map(str::to_owned));
        }
        if self.file(WARM_UP_FILE).exists() {
            files.insert(WARM_UP_FILE.to_owned());
        }
        Ok(files)
    }

    /// Computes the SHA-256 digest of the release's files, as 64 lowercase hexadecimal digits.
    ///
    /// The digest is that of the listing that `sha256sum` prints for [`Self::files`], so a person can check it:
    /// `sha256sum config.json model.onnx tokenizer.json | sha256sum`. For a tensor model the listing has one line,
    /// `model.onnx`. Files with weights, such as `model.onnx_data`, are in the listing too.
    pub fn digest(&self) -> Result<String, RepositoryError> {
        let mut listing = String::new();
        for name in self.files()? {
            let path = self.file(&name);
            let digest = digest_of_file(&path)
                .map_err(|source| RepositoryError::Unreadable { path, source })?;
            listing.push_str(&digest);
            listing.push_str("  ");
            listing.push_str(&name);
            listing.push('\n');
        }
        Ok(hexadecimal(&Sha256::digest(listing)))
    }
}

/// A file in which a graph keeps weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Its path, as the graph names it: relative to the directory of the graph.
    pub location: String,
    /// Its path, relative to the release.
    pub name: String,
}

/// Returns the path relative to the release of a file that a graph names, or what is wrong with the name.
fn check_location(graph: &str, location: &str) -> Result<String, &'static str> {
    // `sha256sum` escapes such names, so its listing would differ.
    if location.contains(|c: char| c == '\\' || c.is_control()) {
        return Err("has a backslash or a control character in its name");
    }
    if location.is_empty() {
        return Err("has no name");
    }
    let mut parts: Vec<&str> = graph.split('/').collect();
    parts.pop();
    for component in Path::new(location).components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err("leads out of the directory of the graph");
            }
        }
    }
    Ok(parts.join("/"))
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

/// Checks that the name of a model or of a release is one segment of a path.
///
/// # Errors
///
/// [`RepositoryError::InvalidName`] with `what`, such as `model name`.
pub fn check_segment(what: &'static str, value: &str) -> Result<(), RepositoryError> {
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

/// Returns the sorted names of the entries of a directory whose paths are `wanted`.
fn list(path: &Path, wanted: fn(&Path) -> bool) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(path)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| wanted(&entry.path()))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Writes bytes as lowercase hexadecimal digits.
#[must_use]
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
