//! Is the worst latency under load far enough from the router's time limit?

use async_trait::async_trait;

use super::{Candidate, Gate};
use crate::{
    config::HeadroomSettings,
    latency::milliseconds,
    verdict::{Finding, Verdict},
};

/// Compares what the load gate saw with the router's configuration.
#[derive(Debug)]
pub struct Headroom {
    settings: HeadroomSettings,
}

impl Headroom {
    /// With this safety factor.
    #[must_use]
    pub fn new(settings: HeadroomSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Gate for Headroom {
    fn name(&self) -> &'static str {
        "headroom"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let load = candidate.earlier.iter().find(|(name, _)| *name == "load");
        let worst = load.and_then(|(_, verdict)| verdict.numbers.get("worst_seconds"));
        let Some(&worst) = worst else {
            return Verdict::skipped("the gate load did not see how long requests take");
        };
        let limit = match candidate.world.router.read_timeout() {
            Ok(Some(limit)) => limit.as_secs_f64(),
            Ok(None) => return Verdict::skipped("router.configuration is not set"),
            Err(error) => return Verdict::new(Finding::Inconclusive, error.to_string()),
        };
        let factor = self.settings.factor;
        let (finding, than) = if worst * factor < limit {
            (Finding::Pass, "below")
        } else {
            (Finding::Fail, "not below")
        };
        let summary = format!(
            "{factor} times the worst latency under load, {}, is {than} the router's proxy_read_timeout, {limit} s",
            milliseconds(worst)
        );
        Verdict::new(finding, summary)
            .with("worst_seconds", worst)
            .with("read_timeout_seconds", limit)
    }
}
