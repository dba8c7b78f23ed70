//! Does the router reach the candidate where it now is, and is it the same one?
//!
//! A container that was recreated has a new address: what answers the deployer directly and what
//! nginx would send clients to need not be the same server.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Candidate, Gate, identity};
use crate::{
    ports::Target,
    release::{Health, Release},
    verdict::{Finding, Verdict},
};

/// Asks for the candidate's health through the router's control port.
#[derive(Debug)]
pub struct Reachable {
    timeout: Duration,
}

impl Reachable {
    /// The router has this long to find the candidate's new address.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

#[async_trait]
impl Gate for Reachable {
    fn name(&self) -> &'static str {
        "reachable"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        const PAUSE: Duration = Duration::from_millis(200);

        let deadline = Instant::now() + self.timeout;
        let probe = &candidate.world.probe;
        // Whether it is the one that is wanted is for the gate `identity` to say.
        let itself = match probe.health(Target::Server(candidate.color)).await {
            Ok(health) => as_it_reports(candidate.release, health),
            Err(error) => {
                return Verdict::new(Finding::Fail, format!("it does not answer: {error}"));
            }
        };
        loop {
            let asked = probe.health(Target::ThroughRouter(candidate.color)).await;
            let verdict = match asked {
                Ok(health) => {
                    let found = identity::compare(&itself, &health);
                    if found.finding != Finding::Fail {
                        return Verdict::new(Finding::Pass, "the router reaches it");
                    }
                    Verdict::new(
                        Finding::Fail,
                        format!("the router reaches another server: {}", found.summary),
                    )
                }
                Err(error) => Verdict::new(
                    Finding::Fail,
                    format!("the router does not reach it: {error}"),
                ),
            };
            if Instant::now() >= deadline {
                return verdict;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a server says that it serves; what it does not say is taken for what is wanted.
fn as_it_reports(wanted: &Release, health: Health) -> Release {
    Release {
        model: health.model_name.unwrap_or_else(|| wanted.model.clone()),
        version: health
            .model_version
            .unwrap_or_else(|| wanted.version.clone()),
        digest: health.model_digest,
    }
}
