use std::{
    env,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ort::environment::Environment;

use crate::backend::engine::EngineUnavailable;

/// The paths of distributions and of the project's own image, tried in this order.
const DEFAULT_PATHS: [&str; 5] = [
    "/usr/local/lib/libonnxruntime.so",
    "/usr/lib/libonnxruntime.so",
    "/usr/lib/x86_64-linux-gnu/libonnxruntime.so",
    "/usr/lib/x86_64-linux-gnu/libonnxruntime.so.1",
    "/usr/lib/aarch64-linux-gnu/libonnxruntime.so.1",
];

/// A process can load the library only once.
static LOADED: Mutex<Option<OnnxRuntime>> = Mutex::new(None);

/// The loaded library.
#[derive(Debug, Clone)]
pub(crate) struct OnnxRuntime(pub(super) Environment);

impl OnnxRuntime {
    /// Loads the library from `path`, or from the first default path that exists.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, EngineUnavailable> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => default_path()?,
        };
        let unusable = |reason: &dyn std::fmt::Display| EngineUnavailable::Library {
            path: path.clone(),
            reason: reason.to_string(),
        };
        // Checked first, because the loader's own error names neither the path nor the cause.
        std::fs::metadata(&path).map_err(|error| unusable(&error))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*loaded {
            return Ok(library.clone());
        }
        let environment = ort::init_from(&path)
            .map_err(|error| unusable(&error))?
            .with_name("model-server")
            // Errors are returned where they occur; the library's own log is not needed.
            .with_telemetry(false)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(loaded.insert(Self(environment)).clone())
    }
}

fn default_path() -> Result<PathBuf, EngineUnavailable> {
    let beside = env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join("libonnxruntime.so")));
    let places: Vec<PathBuf> = beside
        .into_iter()
        .chain(DEFAULT_PATHS.iter().map(PathBuf::from))
        .collect();
    places
        .iter()
        .find(|place| place.exists())
        .cloned()
        .ok_or_else(|| {
            let names = places.iter().map(|place| place.display().to_string());
            EngineUnavailable::NotFound(names.collect::<Vec<_>>().join(", "))
        })
}
