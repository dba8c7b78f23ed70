//! What the handlers share.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use crate::{
    api_keys::ApiKeys,
    backend::{engine::EngineKind, tensor::Signature},
    config::{Settings, log::RequestLog},
    memory_budget::MemoryBudget,
    metrics::counters::Metrics,
    phase::{CurrentPhase, Phase},
    scheduler::{inference_pool::InferencePool, watchdog::Watchdog},
    telemetry::tracer::Telemetry,
};

/// One request takes at most the queue's capacity divided by this: a larger one would find room only
/// in an empty queue, and might be turned away forever.
const REQUEST_SHARE_OF_QUEUE: usize = 4;

/// One server's shared state.
#[derive(Debug)]
pub(crate) struct ServerState {
    /// The name of the model.
    pub(crate) model_name: String,
    /// The release of it.
    pub(crate) model_version: String,
    /// Who runs it.
    pub(crate) engine: EngineKind,
    /// How long a client waits at most.
    pub(crate) request_timeout: Duration,
    /// Largest request body in bytes.
    pub(crate) max_body_bytes: usize,
    /// How much of memory large bodies may take together.
    pub(crate) memory_budget: Arc<MemoryBudget>,
    /// The most texts that one request may have: all of them have to find room in the queue, also
    /// where others wait there.
    pub(crate) max_texts: usize,
    /// Which requests are logged.
    pub(crate) request_log: RequestLog,
    /// Who may ask; without keys everybody may.
    pub(crate) keys: Option<ApiKeys>,
    /// Whether it is loading, ready and so on.
    pub(crate) phase: CurrentPhase,
    /// The counters.
    pub(crate) metrics: Arc<Metrics>,
    /// Where traces go, if anywhere.
    pub(crate) telemetry: Option<Telemetry>,
    /// Set once, when the release was loaded.
    pub(crate) serving: OnceLock<Serving>,
}

/// A release at work.
#[derive(Debug)]
pub(crate) struct Serving {
    /// SHA-256 over the release's files, in hexadecimal.
    pub(crate) digest: String,
    /// The graph's inputs and outputs.
    pub(crate) signature: Signature,
    /// What the release answers, and where work waits for it.
    pub(crate) pool: Arc<InferencePool>,
    /// What the workers are doing.
    pub(crate) watchdog: Watchdog,
}

impl ServerState {
    /// The state of a server that has just started.
    pub(crate) fn new(settings: &Settings, started: Instant) -> Self {
        Self {
            model_name: settings.model_name.clone(),
            model_version: settings.model_version.clone(),
            engine: settings.engine,
            request_timeout: settings.request_timeout,
            max_body_bytes: settings.max_body_bytes,
            memory_budget: MemoryBudget::new(settings.max_pending_bytes),
            max_texts: settings
                .queue_capacity
                .get()
                .div_ceil(REQUEST_SHARE_OF_QUEUE),
            request_log: settings.request_log,
            keys: None,
            phase: CurrentPhase::loading(),
            metrics: Arc::new(Metrics::starting_at(started)),
            telemetry: None,
            serving: OnceLock::new(),
        }
    }

    /// Why the server cannot be relied on at the time `now`; `None` if it can.
    pub(crate) fn unhealthy_reason(&self, now: Instant) -> Option<String> {
        self.phase
            .get()
            .unhealthy_reason()
            .or_else(|| self.stuck(now))
    }

    /// Why the process is beyond help, so that only a new one can serve; `None` if it is not.
    pub(crate) fn dead_reason(&self, now: Instant) -> Option<String> {
        match self.phase.get() {
            Phase::Unfit { reason } => Some(reason),
            Phase::Loading | Phase::Ready | Phase::Draining => self.stuck(now),
        }
    }

    /// A forward pass that outlasts what any client waits for answers nobody: whoever asks then
    /// must not be told that all is well. It is well again when the pass ends.
    fn stuck(&self, now: Instant) -> Option<String> {
        let longest = self.serving.get()?.watchdog.longest(now);
        (longest > self.request_timeout).then(|| {
            format!(
                "stuck: a forward pass has taken {} s and has not ended",
                longest.as_secs()
            )
        })
    }
}
