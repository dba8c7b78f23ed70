//! What the handlers share.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderValue, header::USER_AGENT};

use crate::{
    api_keys::ApiKeys,
    backend::{engine::EngineKind, tensor::Signature},
    capture::Capture,
    config::{Limits, Settings, log::RequestLog},
    memory_budget::MemoryBudget,
    metrics::counters::Metrics,
    phase::{CurrentPhase, Phase},
    scheduler::{inference_pool::InferencePool, watchdog::Watchdog},
    telemetry::tracer::Telemetry,
};

/// How the deployer's user agent begins.
const DEPLOYER_USER_AGENT: &[u8] = b"deployer/";

/// The state of one server.
#[derive(Debug)]
pub(crate) struct ServerState {
    /// Name of the model.
    pub(crate) model_name: String,
    /// Name of the release.
    pub(crate) model_version: String,
    /// The engine that runs it.
    pub(crate) engine: EngineKind,
    /// The limits of the queue, of requests, and of connections.
    pub(crate) limits: Limits,
    /// How long the server serves new requests after the stop signal.
    pub(crate) grace: Duration,
    /// The memory that large bodies may take together.
    pub(crate) memory_budget: Arc<MemoryBudget>,
    /// Which requests are logged.
    pub(crate) request_log: RequestLog,
    /// The accepted API keys; `None` accepts every client.
    pub(crate) keys: Option<ApiKeys>,
    /// Keeps a sample of inputs; `None` if it is off.
    pub(crate) capture: Option<Capture>,
    /// The phase of the server.
    pub(crate) phase: CurrentPhase,
    /// The metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// Sends traces; `None` if they are off.
    pub(crate) telemetry: Option<Telemetry>,
    /// Set once, after the release is loaded.
    pub(crate) serving: OnceLock<Serving>,
}

/// A loaded release.
#[derive(Debug)]
pub(crate) struct Serving {
    /// SHA-256 of the release's files, in hexadecimal.
    pub(crate) digest: String,
    /// The version and the digest, as every response carries them; `None` if they are not valid in a header.
    pub(crate) release_headers: Option<[HeaderValue; 2]>,
    /// The inputs and outputs of the graph.
    pub(crate) signature: Signature,
    /// The queue and the plan of the workers.
    pub(crate) pool: Arc<InferencePool>,
    /// How long each worker has been busy.
    pub(crate) watchdog: Watchdog,
}

impl ServerState {
    /// The state of a server that has just started.
    pub(crate) fn new(settings: &Settings, started: Instant) -> Self {
        Self {
            model_name: settings.model.name.clone(),
            model_version: settings.model.version.clone(),
            engine: settings.engine.kind,
            limits: settings.limits,
            grace: settings.drain.grace,
            memory_budget: MemoryBudget::new(settings.limits.max_pending_bytes),
            request_log: settings.log.requests,
            keys: None,
            capture: None,
            phase: CurrentPhase::loading(),
            metrics: Arc::new(Metrics::starting_at(started)),
            telemetry: None,
            serving: OnceLock::new(),
        }
    }

    /// Returns the sample of inputs; `None` if it is off, or if the deployer sent the request: its test inputs do not
    /// show what clients send.
    pub(crate) fn capture_for(&self, headers: &HeaderMap) -> Option<&Capture> {
        let capture = self.capture.as_ref()?;
        let is_deployer = |agent: &HeaderValue| agent.as_bytes().starts_with(DEPLOYER_USER_AGENT);
        let from_deployer = headers.get(USER_AGENT).is_some_and(is_deployer);
        (!from_deployer).then_some(capture)
    }

    /// Why `/health` and `/readyz` fail at `now`; `None` if they succeed.
    pub(crate) fn unhealthy_reason(&self, now: Instant) -> Option<String> {
        self.phase
            .get()
            .unhealthy_reason()
            .or_else(|| self.stuck(now))
    }

    /// Why only a restart helps at `now`; `None` if the process can go on.
    pub(crate) fn dead_reason(&self, now: Instant) -> Option<String> {
        match self.phase.get() {
            Phase::Unfit { reason } => Some(reason),
            Phase::Loading | Phase::Ready | Phase::Draining => self.stuck(now),
        }
    }

    /// A forward pass that outlasts every client's timeout makes the server unhealthy until it ends.
    fn stuck(&self, now: Instant) -> Option<String> {
        let longest = self.serving.get()?.watchdog.longest(now);
        (longest > self.limits.request_timeout).then(|| {
            format!(
                "stuck: a forward pass has taken {} s and has not ended",
                longest.as_secs()
            )
        })
    }
}
