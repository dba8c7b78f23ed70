//! What the handlers share.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    lifecycle::CurrentPhase,
    metrics::Metrics,
    settings::Settings,
    worker::{Job, Queue},
};

/// One server's shared state.
#[derive(Debug)]
pub(crate) struct ServerState {
    /// The name of the model.
    pub(crate) model_name: String,
    /// The release of it.
    pub(crate) model_version: String,
    /// How long a client waits at most.
    pub(crate) request_timeout: Duration,
    /// Largest request body in bytes.
    pub(crate) max_body_bytes: usize,
    /// Whether it is loading, ready and so on.
    pub(crate) phase: CurrentPhase,
    /// The counters.
    pub(crate) metrics: Metrics,
    /// Set once, when the release was loaded.
    pub(crate) serving: OnceLock<Serving>,
}

/// A release at work.
#[derive(Debug)]
pub(crate) struct Serving {
    /// SHA-256 over the release's files, in hexadecimal.
    pub(crate) digest: String,
    /// Where texts wait for a worker.
    pub(crate) queue: Arc<Queue<Job>>,
}

impl ServerState {
    /// The state of a server that has just started.
    pub(crate) fn new(settings: &Settings, started: Instant) -> Self {
        Self {
            model_name: settings.model_name.clone(),
            model_version: settings.model_version.clone(),
            request_timeout: settings.request_timeout,
            max_body_bytes: settings.max_body_bytes,
            phase: CurrentPhase::loading(),
            metrics: Metrics::starting_at(started),
            serving: OnceLock::new(),
        }
    }
}
