//! What a verdict is based on besides its figures.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::evidence::latency::Latencies;

/// The details of a verdict.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    /// The active release's latencies.
    pub active_latency: Option<Latencies>,
    /// The candidate's latencies.
    pub candidate_latency: Option<Latencies>,
    /// Latencies in seconds, in the order of the requests; thinned.
    pub curve: Vec<f64>,
    /// Errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// Inputs on which both releases disagree, the most severe first.
    pub flips: Vec<Flip>,
}

/// An input to which both releases give different labels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Flip {
    /// The body of the request.
    pub input: String,
    /// The active release's label.
    pub active: String,
    /// The candidate's label.
    pub candidate: String,
    /// The active release's confidence, 0–1.
    pub active_confidence: Option<f64>,
    /// The candidate's confidence, 0–1.
    pub candidate_confidence: Option<f64>,
    /// The correct label, if it is known.
    pub expect: Option<String>,
}

impl Flip {
    /// The severity: the lower confidence of both. If both are sure, one of them is badly wrong.
    #[must_use]
    pub fn severity(&self) -> f64 {
        let [active, candidate] =
            [self.active_confidence, self.candidate_confidence].map(|it| it.unwrap_or(0.5));
        active.min(candidate)
    }
}
