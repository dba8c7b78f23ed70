//! Requests to model servers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    color::Color,
    evidence::{
        load::{LoadPlan, LoadResult},
        stream::StreamTimes,
    },
    examples::Example,
    ports::error::PortError,
    release::Health,
};

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
    /// The times of its events, if the answer is a stream.
    pub stream: Option<StreamTimes>,
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
