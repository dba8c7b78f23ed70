use std::{fs, path::PathBuf, sync::Arc};

use model_repository::{
    CONFIG_FILE, MODEL_FILE, ReleaseDirectory, RepositoryError, TOKENIZER_FILE,
};
use thiserror::Error;

use crate::{
    engine::{GraphError, RtenEngine, RtenModel},
    settings::Settings,
    text::{ConfigError, ModelConfig, TextTokenizer, TokenizerError},
    worker::Classifier,
};

/// Why a release cannot be served. Each message names the path and what was expected there.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no such release, or one of its files cannot be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// `config.json` is damaged.
    #[error("cannot use {path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// `tokenizer.json` is damaged.
    #[error("cannot use {path}: {source}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenizerError,
    },
    /// `model.onnx` is damaged.
    #[error("cannot use {path}: {source}")]
    Graph {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: GraphError,
    },
    /// Each file can be read, but they do not fit together.
    #[error(
        "{path} does not answer a first text: {reason}; expected a model, a tokenizer and a config.json that fit together"
    )]
    WarmUp {
        /// The model's file.
        path: PathBuf,
        /// What happened.
        reason: String,
    },
    /// The engine panicked over the files.
    #[error("loading {path} panicked: {reason}; the files are probably damaged")]
    Panicked {
        /// The model's directory.
        path: PathBuf,
        /// The panic's message.
        reason: String,
    },
}

/// A release that has answered a first text, and is ready to be put to work.
pub(crate) struct Loaded<E> {
    /// SHA-256 over the release's files, in hexadecimal.
    pub(crate) digest: String,
    /// Tokenizer and labels.
    pub(crate) classifier: Arc<Classifier>,
    /// One engine per worker, each of them warm.
    pub(crate) engines: Vec<E>,
}

/// Reads, digests and proves the release that the settings name. Takes as long as it takes;
/// not for an async thread.
pub(crate) fn load(settings: &Settings) -> Result<Loaded<RtenEngine>, LoadError> {
    let release = ReleaseDirectory::locate(
        &settings.model_root,
        &settings.model_name,
        &settings.model_version,
    )?;
    let digest = release.digest()?;

    let path = release.file(CONFIG_FILE);
    let config =
        ModelConfig::parse(&read(&path)?).map_err(|source| LoadError::Config { path, source })?;

    let path = release.file(TOKENIZER_FILE);
    let tokenizer = TextTokenizer::parse(&read(&path)?, config.max_tokens)
        .map_err(|source| LoadError::Tokenizer { path, source })?;

    let path = release.file(MODEL_FILE);
    let model = match RtenModel::parse(read(&path)?) {
        Ok(model) => Arc::new(model),
        Err(source) => return Err(LoadError::Graph { path, source }),
    };

    let classifier = Classifier {
        tokenizer,
        labels: config.labels,
    };
    let mut engines: Vec<_> = (0..settings.inference_threads.get())
        .map(|_| model.engine())
        .collect();
    for engine in &mut engines {
        classifier
            .warm_up(engine)
            .map_err(|error| LoadError::WarmUp {
                path: path.clone(),
                reason: error.to_string(),
            })?;
    }
    Ok(Loaded {
        digest,
        classifier: Arc::new(classifier),
        engines,
    })
}

fn read(path: &PathBuf) -> Result<Vec<u8>, RepositoryError> {
    fs::read(path).map_err(|source| RepositoryError::Unreadable {
        path: path.clone(),
        source,
    })
}
