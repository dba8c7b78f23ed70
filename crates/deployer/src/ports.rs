//! What the deployer needs of the world. The adapters meet it for real, the tests with fakes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use thiserror::Error;

use crate::{
    color::Color,
    diagnosis::Finding,
    examples::Example,
    load::{Load, LoadPlan},
    phase::Phase,
    plan::Plan,
    release::Health,
    traffic::Request,
};

/// Anything that the world refused, in words for the person at the terminal.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct WorldError(pub String);

/// Sends traffic to one color.
#[async_trait]
pub trait Router: Send + Sync {
    /// Whether the router sees the flags that are set here: an error says what is wrong otherwise.
    async fn sees_flags(&self) -> Result<(), WorldError>;

    /// The color that has the traffic, by the flag, and confirmed by the router itself.
    async fn active(&self) -> Result<Color, WorldError>;

    /// Sends all traffic to `color` from the next request on, waits until the router confirms it,
    /// and hands back the color that was displaced.
    async fn point_at(&self, color: Color) -> Result<Color, WorldError>;

    /// The color that has the traffic by the flag alone, whether or not the router answers.
    fn flagged(&self) -> Color;

    /// Whether `color` may stand in for the other one.
    fn is_fit(&self, color: Color) -> bool;

    /// Says whether `color` may stand in for the other one.
    fn set_fit(&self, color: Color, fit: bool) -> Result<(), WorldError>;

    /// Says whether the idle color gets a copy of each client request.
    fn set_shadow(&self, on: bool) -> Result<(), WorldError>;

    /// How long the router waits, by its configuration; none where that is not here.
    fn limits(&self) -> Result<Option<RouterLimits>, WorldError>;
}

/// How long the router waits for what, where clients can reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterLimits {
    /// For an answer, where it waits the shortest.
    pub read: Duration,
    /// For an answer, where it waits the longest.
    pub longest_read: Duration,
    /// After this long no other server is tried any more; none where that has no end.
    pub next_upstream: Option<Duration>,
    /// So long at most it keeps an idle connection to a server; none where it keeps none.
    pub upstream_idle: Option<Duration>,
}

/// Tells what clients were answered.
pub trait Traffic: Send + Sync {
    /// The requests that were logged since the last call; at first those that were logged lately.
    fn new_requests(&self) -> Result<Vec<Request>, WorldError>;

    /// The requests that were logged lately, whether or not they were read before.
    fn lately(&self) -> Result<Vec<Request>, WorldError>;

    /// How many lines [`Self::new_requests`] came across that it did not understand.
    fn strange_lines(&self) -> u64 {
        0
    }
}

/// One of the things that a fleet runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A model server.
    Server(Color),
    /// nginx.
    Router,
}

impl Service {
    /// The service's name, as in the Compose file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server(color) => color.name(),
            Self::Router => "router",
        }
    }
}

/// What a service is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It does not, for this reason.
    Stopped(String),
    /// Nobody here can tell: something else runs it.
    Unmanaged,
}

/// Starts and stops services.
#[async_trait]
pub trait Fleet: Send + Sync {
    /// Starts the router if it is not running.
    async fn start_router(&self) -> Result<(), WorldError>;

    /// Replaces whatever `color` runs by `version`. It need not be healthy yet on return.
    async fn start(&self, color: Color, version: &str) -> Result<(), WorldError>;

    /// Ends a service: it may finish what it is doing within a bound. Fine when it is not running.
    async fn stop(&self, service: Service) -> Result<(), WorldError>;

    /// What a service is doing, and for a server which version was last started there.
    async fn inspect(&self, service: Service) -> Result<(State, Option<String>), WorldError>;

    /// Removes what former releases left and nothing uses, but for the `keep` newest.
    async fn prune(&self, keep: usize) -> Result<(), WorldError>;

    /// Looks at what runs the services: versions, configuration, how containers ended.
    async fn diagnose(&self) -> Vec<Finding>;

    /// The last lines that a service wrote, oldest first.
    async fn logs(&self, service: Service, lines: usize) -> Vec<String>;

    /// How the server on a color was started; none when it does not run, or nobody here can tell.
    async fn started(&self, _color: Color) -> Option<Started> {
        None
    }
}

/// How a server was started.
pub struct Started {
    /// Its environment; what is in it may be secret.
    pub environment: HashMap<String, String>,
    /// When it is to end and has not after this long, it is killed.
    pub killed_after: Duration,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A color's server, directly.
    Server(Color),
    /// A color's server, as the router reaches it.
    ThroughRouter(Color),
    /// Whoever answers clients.
    Public,
}

/// What a model server answered to a prediction, with success.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The label; none where the answer has none at the place that the settings name.
    pub label: Option<String>,
    /// How sure the model is of it, 0–1; none likewise.
    pub confidence: Option<f64>,
    /// From sending the request to having read the answer.
    pub took: Duration,
}

/// Asks model servers. Every question is bounded in time.
#[async_trait]
pub trait Probe: Send + Sync {
    /// A health check; an error when it was not passed.
    async fn health(&self, target: Target) -> Result<Health, WorldError>;

    /// One prediction; an error when it was not answered with success.
    async fn predict(&self, target: Target, example: &Example) -> Result<Answer, WorldError>;

    /// Many predictions at a time; an error when the load could not be made.
    async fn load(
        &self,
        target: Target,
        examples: Arc<[Example]>,
        plan: LoadPlan,
    ) -> Result<Load, WorldError>;
}

/// On which side of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before it is gone on to.
    Before,
    /// After it was reached.
    After,
}

/// Runs what somebody wants run around the phases.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs what there is to run, bounded in time; an error when it failed. `reason` is why a
    /// deployment ended.
    async fn run(
        &self,
        when: When,
        phase: Phase,
        plan: &Plan,
        reason: Option<&str>,
    ) -> Result<(), WorldError>;
}

/// The ports together.
pub struct World {
    /// Sends traffic.
    pub router: Box<dyn Router>,
    /// Tells what clients were answered; none when the access log cannot be read here.
    pub traffic: Option<Box<dyn Traffic>>,
    /// Tells what the idle color answered to copies; none when that log cannot be read here.
    pub shadow: Option<Box<dyn Traffic>>,
    /// Starts and stops services.
    pub fleet: Box<dyn Fleet>,
    /// Asks model servers.
    pub probe: Box<dyn Probe>,
    /// Runs commands of one's own.
    pub hooks: Box<dyn Hooks>,
}
