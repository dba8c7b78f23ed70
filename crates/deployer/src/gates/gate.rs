//! What every gate implements, and what it judges.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

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
    /// Whether the candidate is compared with nothing: the active release is down, or may be the bad one.
    pub nothing_to_compare: bool,
    /// Receives what the candidate answers in the gate `golden`.
    pub golden_labels: &'a GoldenLabels,
    /// Receives the progress of long gates.
    pub reporter: &'a dyn Reporter,
}

/// The label of each input, by the input's body, that the candidate gave in the gate `golden`.
///
/// The bake holds the candidate to them: under real traffic it must answer what it answered when it was judged.
#[derive(Debug, Default)]
pub struct GoldenLabels(Mutex<HashMap<String, String>>);

impl GoldenLabels {
    /// Records the label that the candidate gave to an input.
    pub fn record(&self, body: &str, label: &str) {
        let mut labels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        labels.insert(body.to_owned(), label.to_owned());
    }

    /// Returns all labels, and forgets them.
    #[must_use]
    pub fn take(&self) -> HashMap<String, String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
