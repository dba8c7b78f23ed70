//! The questions that a candidate must answer before it gets traffic, in the order of asking.

mod agreement;
mod ask;
mod comparison;
mod golden;
mod headroom;
mod health;
mod identity;
mod load;
mod reachable;
mod shadow;
mod smoke;

use async_trait::async_trait;

use crate::{
    color::Color,
    config::{GateName, Settings},
    event::Reporter,
    examples::Examples,
    ports::World,
    release::Release,
    traffic::Seen,
    verdict::Verdict,
};

pub use self::{
    agreement::Agreement,
    comparison::Comparison,
    golden::Golden,
    headroom::Headroom,
    health::Healthy,
    identity::{Identity, compare},
    load::LoadGate,
    reachable::Reachable,
    shadow::Shadow,
    smoke::Smoke,
};

/// The candidate, and what a gate may use to question it.
pub struct Candidate<'a> {
    /// Where it runs.
    pub color: Color,
    /// What it must turn out to be.
    pub release: &'a Release,
    /// The ports; a gate asks and never moves traffic.
    pub world: &'a World,
    /// What it is asked.
    pub examples: &'a Examples,
    /// What clients saw of the active release lately.
    pub before: &'a Seen,
    /// What the gates before this one concluded.
    pub earlier: &'a [(&'static str, Verdict)],
    /// Whether there is no active release to compare with, because it is down.
    pub active_down: bool,
    /// Takes progress on long questions.
    pub reporter: &'a dyn Reporter,
}

/// One question.
#[async_trait]
pub trait Gate: Send + Sync {
    /// The gate's name, as in reports.
    fn name(&self) -> &'static str;

    /// Whether it cannot be asked without an active release that answers.
    fn compares(&self) -> bool {
        false
    }

    /// Puts the question. Bounded in time.
    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict;
}

/// The gates between "healthy" and "validated": those that the settings name.
#[must_use]
pub fn before_the_switch(settings: &Settings) -> Vec<Box<dyn Gate>> {
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
