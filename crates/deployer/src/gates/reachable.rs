//! The gate `reachable`: does the router reach the candidate?
//!
//! A recreated container has a new address, so nginx might send clients to another server than the deployer
//! probes.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    evidence::verdict::{Conclusion, Verdict},
    gates::{
        gate::{Candidate, Gate},
        identity,
    },
    ports::Target,
    release::{Health, Release},
};

/// Sends a health check through the router's control port.
#[derive(Debug)]
pub struct Reachable {
    timeout: Duration,
}

impl Reachable {
    /// Creates the gate. The router has this long to find the candidate's new address.
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
        let probe = &candidate.ports.probe;
        // The gate `identity` judges whether it is the wanted release.
        let itself = match probe.health(Target::Server(candidate.color)).await {
            Ok(health) => as_it_reports(candidate.release, health),
            Err(error) => {
                return Verdict::new(Conclusion::Fail, format!("it does not answer: {error}"));
            }
        };
        loop {
            let answer = probe.health(Target::ThroughRouter(candidate.color)).await;
            let verdict = match answer {
                Ok(health) => {
                    let compared = identity::compare(&itself, &health);
                    if compared.conclusion != Conclusion::Fail {
                        return Verdict::new(Conclusion::Pass, "the router reaches it");
                    }
                    Verdict::new(
                        Conclusion::Fail,
                        format!("the router reaches another server: {}", compared.summary),
                    )
                }
                Err(error) => Verdict::new(
                    Conclusion::Fail,
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

/// The release that a server reports. Missing fields are taken from the wanted release.
fn as_it_reports(wanted: &Release, health: Health) -> Release {
    Release {
        model: health.model_name.unwrap_or_else(|| wanted.model.clone()),
        version: health
            .model_version
            .unwrap_or_else(|| wanted.version.clone()),
        digest: health.model_digest,
    }
}
