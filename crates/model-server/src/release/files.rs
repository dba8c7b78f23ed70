//! Reads the files of a release.

use std::{fs, panic, path::Path, sync::Arc, thread};

use bytes::Bytes;
use model_repository::{CONFIG_FILE, ReleaseDirectory, RepositoryError, TOKENIZER_FILE};

use crate::{
    backend::{
        engine::{GraphError, Model},
        onnx_file::GraphFile,
        onnxruntime::{library::OnnxRuntime, session::OnnxRuntimeModel},
        rten::RtenModel,
    },
    release::{LoadError, unusable_graph},
    task::model_config::ModelConfig,
    tokenizer::text_tokenizer::TextTokenizer,
};

/// The files beside the graph of a release that reads texts.
pub(super) type TextFiles = (TextTokenizer, ModelConfig);

/// Does both in parallel, because they are independent and take similar time.
pub(super) fn digest_and_read_text_files(
    release: &ReleaseDirectory,
) -> Result<(String, Option<TextFiles>), LoadError> {
    let (digest, text_files) = thread::scope(|scope| {
        let digest = scope.spawn(|| release.digest());
        let text_files = release.reads_texts().then(|| read_text_files(release));
        let digest = digest.join();
        (
            digest.unwrap_or_else(|panic| panic::resume_unwind(panic)),
            text_files,
        )
    });
    Ok((digest?, text_files.transpose()?))
}

fn read_text_files(release: &ReleaseDirectory) -> Result<TextFiles, LoadError> {
    let path = release.file(CONFIG_FILE);
    let config =
        ModelConfig::parse(&read(&path)?).map_err(|source| LoadError::Config { path, source })?;
    let path = release.file(TOKENIZER_FILE);
    let tokenizer = TextTokenizer::parse(&read(&path)?, config.max_tokens)
        .map_err(|source| LoadError::Tokenizer { path, source })?;
    Ok((tokenizer, config))
}

/// Loads the graph with ONNX Runtime if `library` is given, otherwise with rten. Returns also whether it
/// quantizes at run time.
pub(super) fn load_graph(
    release: &ReleaseDirectory,
    graph: &str,
    library: Option<OnnxRuntime>,
    threads: usize,
) -> Result<(Arc<dyn Model>, bool), LoadError> {
    let path = release.file(graph);
    let unusable = |source| unusable_graph(&path, source);
    let bytes = Bytes::from(read(&path)?);
    let file = GraphFile::parse(bytes.clone())
        .map_err(|reason| unusable(GraphError::Unreadable(reason)))?;
    let quantizes_dynamically = file.quantizes_dynamically();
    let model: Arc<dyn Model> = match library {
        None => {
            drop(file);
            let mut data = Vec::new();
            for file in release.data_files(graph)? {
                data.push((file.location, read(&release.file(&file.name))?));
            }
            // No other reference to the bytes is left, so they are not copied.
            Arc::new(RtenModel::parse(bytes.into(), data, threads).map_err(unusable)?)
        }
        Some(library) => {
            drop(bytes);
            Arc::new(OnnxRuntimeModel::load(&library, &path, &file, threads).map_err(unusable)?)
        }
    };
    Ok((model, quantizes_dynamically))
}

fn read(path: &Path) -> Result<Vec<u8>, RepositoryError> {
    fs::read(path).map_err(|source| RepositoryError::Unreadable {
        path: path.to_owned(),
        source,
    })
}
