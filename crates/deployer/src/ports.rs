//! The traits through which the deployer acts. `adapters` implements them; the tests have fakes.

mod error;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

pub use self::error::PortError;
use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    doctor::finding::Finding,
    evidence::{
        load::{LoadPlan, LoadResult},
        request::Request,
    },
    examples::Example,
    release::Health,
};

/// Directs traffic to one color.
#[async_trait]
pub trait Router: Send + Sync {
    /// Checks that the router sees the flags that this process sets. The error says what differs.
    async fn check_flags(&self) -> Result<(), PortError>;

    /// Returns the color that has the traffic by its flag, after the router has confirmed it.
    async fn active(&self) -> Result<Color, PortError>;

    /// Directs all traffic to `color` from the next request on, and waits until the router confirms it. Returns
    /// the color that had the traffic before.
    async fn switch_to(&self, color: Color) -> Result<Color, PortError>;

    /// Returns the color that has the traffic by its flag alone. Does not ask the router.
    fn active_by_flag(&self) -> Color;

    /// Returns whether `color` may stand in for the other color.
    fn is_fit(&self, color: Color) -> bool;

    /// Sets whether `color` may stand in for the other color.
    fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError>;

    /// Sets whether the idle color receives a copy of each client request.
    fn set_shadow(&self, on: bool) -> Result<(), PortError>;

    /// Returns the router's time limits from its configuration; `None` if this machine does not have the file.
    fn limits(&self) -> Result<Option<RouterLimits>, PortError>;
}

/// Time limits of the router on the paths that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterLimits {
    /// The shortest time that the router waits for a response.
    pub read: Duration,
    /// The longest time that the router waits for a response.
    pub longest_read: Duration,
    /// After this time the router tries no other server; `None` if it always does.
    pub next_upstream: Option<Duration>,
    /// How long the router keeps an idle connection to a server open; `None` if it keeps none.
    pub upstream_idle: Option<Duration>,
}

/// Reads what clients were answered.
pub trait RequestLog: Send + Sync {
    /// Returns the requests that were logged since the last call. The first call returns recent requests.
    fn new_requests(&self) -> Result<Vec<Request>, PortError>;

    /// Returns recent requests, whether or not they were read before.
    fn recent_requests(&self) -> Result<Vec<Request>, PortError>;

    /// How many lines [`Self::new_requests`] could not parse.
    fn unparsable_lines(&self) -> u64 {
        0
    }
}

/// A service of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A model server.
    Server(Color),
    /// nginx.
    Router,
}

impl Service {
    /// The service's name in the Compose file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server(color) => color.name(),
            Self::Router => "router",
        }
    }
}

/// The state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// It runs.
    Running,
    /// It does not run, for this reason.
    Stopped(String),
    /// It is paused, as this text describes: it answers nothing, and keeps its port.
    Paused(String),
    /// Something else runs it, and this deployer cannot tell.
    Unmanaged,
}

/// Starts and stops services.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Starts the router if it does not run.
    async fn start_router(&self) -> Result<(), PortError>;

    /// Replaces what `color` runs by `version`. The server may still be unhealthy when this returns.
    async fn start(&self, color: Color, version: &str) -> Result<(), PortError>;

    /// Stops a service and lets it finish its requests within a time limit. Succeeds if the service does not
    /// run.
    async fn stop(&self, service: Service) -> Result<(), PortError>;

    /// Returns the state of a service, and for a server the version that was last started there.
    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError>;

    /// Removes the artifacts of earlier releases that no service uses, except the `keep` newest.
    async fn prune(&self, keep: usize) -> Result<(), PortError>;

    /// Checks what runs the services: versions, configuration, and how containers exited.
    async fn diagnose(&self) -> Vec<Finding>;

    /// Returns the last log lines of a service, oldest first.
    async fn logs(&self, service: Service, lines: usize) -> Vec<String>;

    /// Returns how long the server of a color may take to stop before it is killed; `None` if it does not run or this
    /// deployer cannot tell.
    async fn stop_timeout(&self, _color: Color) -> Option<Duration> {
        None
    }
}

/// The recipient of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A color's server, directly.
    Server(Color),
    /// A color's server, as the router reaches it.
    ThroughRouter(Color),
    /// The server that answers clients.
    Public,
}

/// A successful answer to a prediction.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The label; `None` if the answer has none where `probe.label` points.
    pub label: Option<String>,
    /// The confidence, 0–1; `None` if the answer has none where `probe.confidence` points.
    pub confidence: Option<f64>,
    /// From sending the request to reading the whole answer.
    pub took: Duration,
}

/// Sends requests to model servers. Every call is bounded in time.
#[async_trait]
pub trait Probe: Send + Sync {
    /// Sends a health check. Fails if the server is not healthy.
    async fn health(&self, target: Target) -> Result<Health, PortError>;

    /// Sends one prediction. Fails if the answer is not a success.
    async fn predict(&self, target: Target, example: &Example) -> Result<Prediction, PortError>;

    /// Sends load. Fails if no load could be generated.
    async fn load(
        &self,
        target: Target,
        examples: Arc<[Example]>,
        plan: LoadPlan,
    ) -> Result<LoadResult, PortError>;
}

/// Whether a hook runs before or after a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Before the phase is entered.
    Before,
    /// After the phase is in the journal.
    After,
}

/// Runs the programs that the settings name around each phase.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs the hook of this phase, if there is one, bounded in time. `reason` says why a deployment ended.
    async fn run(
        &self,
        when: HookPoint,
        phase: Phase,
        plan: &Plan,
        reason: Option<&str>,
    ) -> Result<(), PortError>;
}

/// All ports.
pub struct Ports {
    /// Directs traffic.
    pub router: Box<dyn Router>,
    /// `None` if this machine cannot read the access log.
    pub request_log: Option<Box<dyn RequestLog>>,
    /// What the idle color answered to copies; `None` if this machine cannot read that log.
    pub shadow_log: Option<Box<dyn RequestLog>>,
    /// Starts and stops services.
    pub fleet: Box<dyn Fleet>,
    /// Sends requests to model servers.
    pub probe: Box<dyn Probe>,
    /// Runs the hooks.
    pub hooks: Box<dyn Hooks>,
}
