//! What a verdict rests on besides its numbers: for those who want to see for themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::latency::Latencies;

/// Everything that a gate kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// How long the active release took.
    pub active_latency: Option<Latencies>,
    /// How long the candidate took.
    pub candidate_latency: Option<Latencies>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Inputs that the two releases disagree on, the worst first.
    pub flips: Vec<Flip>,
}

/// An input that active and candidate give different labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    /// The body of the request.
    pub input: String,
    /// What the active release says.
    pub active: String,
    /// What the candidate says.
    pub candidate: String,
    /// How sure the active release is, 0–1.
    pub active_confidence: Option<f64>,
    /// How sure the candidate is, 0–1.
    pub candidate_confidence: Option<f64>,
    /// What is right, where that is known.
    pub expect: Option<String>,
}

impl Flip {
    /// How bad it is: two releases that are both sure of the opposite cannot both be trusted.
    #[must_use]
    pub fn severity(&self) -> f64 {
        let [active, candidate] =
            [self.active_confidence, self.candidate_confidence].map(|it| it.unwrap_or(0.5));
        active.min(candidate)
    }
}
