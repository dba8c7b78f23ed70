//! What every gate implements, and what it judges.

use async_trait::async_trait;

use crate::{
    color::Color,
    event::Reporter,
    evidence::{sample::TrafficSample, verdict::Verdict},
    examples::Examples,
    ports::Ports,
    release::Release,
    request_reader::RequestReader,
};

/// A candidate, and what a gate may use to judge it.
pub struct Candidate<'a> {
    /// The candidate's color.
    pub color: Color,
    /// The release that it must be.
    pub release: &'a Release,
    /// The ports. A gate sends requests and never moves traffic.
    pub ports: &'a Ports,
    /// Reads what clients are answered.
    pub requests: &'a RequestReader<'a>,
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
