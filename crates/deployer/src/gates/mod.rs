//! The gates before the switch, one file each.

mod agreement;
mod comparison;
mod golden;
mod headroom;
mod health;
mod identity;
mod load;
mod pairs;
mod reachable;
mod shadow;
mod smoke;

use async_trait::async_trait;

use crate::{
    color::Color,
    config::{GateName, Settings},
    event::Reporter,
    evidence::{sample::TrafficSample, verdict::Verdict},
    examples::Examples,
    ports::Ports,
    release::Release,
};

pub use crate::gates::agreement::Agreement;
pub use crate::gates::comparison::Comparison;
pub use crate::gates::golden::Golden;
pub use crate::gates::headroom::Headroom;
pub use crate::gates::health::Healthy;
pub use crate::gates::identity::Identity;
pub use crate::gates::identity::compare;
pub use crate::gates::load::LoadGate;
pub use crate::gates::reachable::Reachable;
pub use crate::gates::shadow::Shadow;
pub use crate::gates::smoke::Smoke;

/// A candidate, and what a gate may use to judge it.
pub struct Candidate<'a> {
    /// The candidate's color.
    pub color: Color,
    /// The release that it must be.
    pub release: &'a Release,
    /// The ports. A gate sends requests and never moves traffic.
    pub ports: &'a Ports,
    /// The test inputs.
    pub examples: &'a Examples,
    /// What clients recently received from the active release.
    pub before: &'a TrafficSample,
    /// The verdicts of the gates before this one.
    pub earlier: &'a [(&'static str, Verdict)],
    /// Whether the active release is down, so that nothing can be compared with it.
    pub active_down: bool,
    /// Receives the progress of long gates.
    pub reporter: &'a dyn Reporter,
}

/// A check of a candidate before the switch.
#[async_trait]
pub trait Gate: Send + Sync {
    /// The gate's name in settings and reports.
    fn name(&self) -> &'static str;

    /// Whether the gate needs an active release that answers.
    fn needs_active(&self) -> bool {
        false
    }

    /// Judges the candidate. Bounded in time.
    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict;
}

/// Returns the gates that the settings select, in their order.
#[must_use]
pub fn selected_gates(settings: &Settings) -> Vec<Box<dyn Gate>> {
    let mut names = settings.gates.run.clone();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| gate(name, settings)).collect()
}

fn gate(name: GateName, settings: &Settings) -> Box<dyn Gate> {
    match name {
        GateName::Identity => Box::new(Identity),
        GateName::Reachable => Box::new(Reachable::new(settings.router.confirm_timeout)),
        GateName::Smoke => Box::new(Smoke::new(settings.smoke.clone())),
        GateName::Golden => Box::new(Golden::new(settings.golden.clone())),
        GateName::Agreement => Box::new(Agreement::new(settings.agreement.clone())),
        GateName::Load => Box::new(LoadGate::new(settings.load.clone())),
        GateName::Comparison => Box::new(Comparison::new(
            settings.comparison.clone(),
            settings.probe.timeout,
        )),
        GateName::Headroom => Box::new(Headroom::new(
            settings.headroom.clone(),
            settings.load.clone(),
        )),
        GateName::Shadow => Box::new(Shadow::new(settings.shadow.clone())),
    }
}
