//! Requests to model servers as every router reaches them.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{
    adapters::{
        agents::{AgentRouters, named},
        http::{HttpProbe, read_health, refused},
    },
    evidence::load::{LoadPlan, LoadResult},
    examples::Example,
    ports::{PortError, Prediction, Probe, RouterEntry, Target},
    release::Health,
};

/// Sends a health check through every router; everything else as with one router.
pub(crate) struct RoutersProbe {
    probe: HttpProbe,
    routers: AgentRouters,
    health_path: String,
}

impl RoutersProbe {
    pub(in crate::adapters) fn new(
        probe: HttpProbe,
        routers: AgentRouters,
        health_path: String,
    ) -> Self {
        Self {
            probe,
            routers,
            health_path,
        }
    }

    /// A color's health as this router reaches it.
    async fn through(&self, router: &RouterEntry, path: &str) -> Result<Health, PortError> {
        let shown = format!("GET {}/control{path}", router.url);
        let (status, body) = self.routers.agents.control(router, path).await?;
        if status != 200 {
            return Err(refused(&shown, status, &body));
        }
        Ok(read_health(
            &serde_json::from_str(&body).unwrap_or_default(),
        ))
    }
}

#[async_trait]
impl Probe for RoutersProbe {
    /// Fails if one router does not reach the color, or reaches another release than the first one.
    async fn health(&self, target: Target) -> Result<Health, PortError> {
        let Target::ThroughRouter(color) = target else {
            return self.probe.health(target).await;
        };
        let path = &format!("/{color}{}", self.health_path);
        let entries = self.routers.entries().await?;
        let ask = |entry: RouterEntry| async move {
            let health = self.through(&entry, path).await;
            let health = health.map_err(|error| error.context(&named(&entry)))?;
            Ok::<_, PortError>((entry, health))
        };
        let mut first: Option<(RouterEntry, Health)> = None;
        for answer in join_all(entries.into_iter().map(ask)).await {
            let (entry, health) = answer?;
            match &first {
                Some((other, expected)) if !is_same_release(expected, &health) => {
                    return Err(PortError::Invalid(format!(
                        "{} reaches another release than {}",
                        named(&entry),
                        named(other)
                    )));
                }
                Some(_) => {}
                None => first = Some((entry, health)),
            }
        }
        Ok(first.map(|(_, health)| health).unwrap_or_default())
    }

    /// A prediction through the routers goes to the server itself: their agents forward no bodies, and
    /// [`Self::health`] shows that every router reaches it.
    async fn predict(&self, target: Target, example: &Example) -> Result<Prediction, PortError> {
        self.probe.predict(direct(target), example).await
    }

    async fn load(
        &self,
        target: Target,
        examples: Arc<[Example]>,
        plan: LoadPlan,
    ) -> Result<LoadResult, PortError> {
        self.probe.load(direct(target), examples, plan).await
    }
}

fn direct(target: Target) -> Target {
    match target {
        Target::ThroughRouter(color) => Target::Server(color),
        Target::Server(_) | Target::Public => target,
    }
}

fn is_same_release(one: &Health, other: &Health) -> bool {
    (&one.model_name, &one.model_version, &one.model_digest)
        == (&other.model_name, &other.model_version, &other.model_digest)
}
