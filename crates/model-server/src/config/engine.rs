use std::{num::NonZeroUsize, path::PathBuf, thread};

use clap::Args;

use crate::{backend::engine::EngineKind, config::parsers::path};

/// What runs the model, and on how many CPUs.
#[derive(Debug, Clone, Args)]
pub struct EngineSettings {
    /// Engine that runs the model: the built-in one, or ONNX Runtime, a library that must be installed
    #[arg(
        long = "engine",
        env = "ENGINE",
        default_value = "rten",
        value_name = "ENGINE"
    )]
    pub kind: EngineKind,

    /// Path of the library for --engine onnxruntime [default: libonnxruntime.so in the usual directories]
    #[arg(
        long = "onnxruntime-library",
        env = "ONNXRUNTIME_LIBRARY",
        value_name = "PATH",
        value_parser = path()
    )]
    pub library: Option<PathBuf>,

    /// CPUs to use for the model [default: those that this process may use]
    #[arg(
        long = "inference-threads",
        env = "INFERENCE_THREADS",
        value_name = "COUNT"
    )]
    pub threads: Option<NonZeroUsize>,

    /// Concurrent forward passes, at most one for each thread; a single pass uses all threads [default: one for
    /// each thread]
    #[arg(
        long = "inference-workers",
        env = "INFERENCE_WORKERS",
        value_name = "COUNT"
    )]
    pub workers: Option<NonZeroUsize>,
}

impl EngineSettings {
    /// CPUs to use for the model.
    pub(crate) fn threads(&self) -> NonZeroUsize {
        self.threads.unwrap_or_else(available_cpus)
    }

    /// Concurrent forward passes. More than one for each thread would only wait for each other.
    pub(crate) fn workers(&self) -> NonZeroUsize {
        let threads = self.threads();
        self.workers.unwrap_or(threads).min(threads)
    }
}

/// The CPUs that this process may use, by affinity and by the cgroup's quota.
pub(super) fn available_cpus() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
