//! The questions that a candidate must answer before it gets traffic, in the order of asking.

mod health;
mod identity;
mod reachable;
mod smoke;

use async_trait::async_trait;

use crate::{
    color::Color, config::Settings, event::Reporter, ports::World, release::Release,
    verdict::Verdict,
};

pub use self::{
    health::Healthy,
    identity::{Identity, compare},
    reachable::Reachable,
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
    /// Takes progress on long questions.
    pub reporter: &'a dyn Reporter,
}

/// One question.
#[async_trait]
pub trait Gate: Send + Sync {
    /// The gate's name, as in reports.
    fn name(&self) -> &'static str;

    /// Puts the question. Bounded in time.
    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict;
}

/// The gates between "healthy" and "validated".
#[must_use]
pub fn before_the_switch(settings: &Settings) -> Vec<Box<dyn Gate>> {
    vec![
        Box::new(Identity),
        Box::new(Reachable::new(settings.router.confirm_timeout)),
        Box::new(Smoke::new(settings.smoke.clone())),
    ]
}
