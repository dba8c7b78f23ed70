//! What a deployment leaves behind: everything that a reader of its report wants to know.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    evidence::Flip,
    latency::{Bin, Latencies},
    phase::Phase,
    plan::Plan,
    verdict::{Finding, Verdict},
};

/// The number of the schema below; it rises when a reader of the one before would go wrong.
pub const SCHEMA: u32 = 1;

/// One deployment, as `state/reports/ID.json` holds it. Times are RFC 3339 in UTC, latencies and
/// other durations are seconds, rates and shares are 0–1. What is empty may be left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was to be done.
    pub plan: Plan,
    /// The phases that were reached, in order; the last one is the end, if there was one.
    pub phases: Vec<Reached>,
    /// Why it ended as it did.
    #[serde(default)]
    pub reason: Option<String>,
    /// When all traffic moved to the candidate; none when it never did.
    #[serde(default)]
    pub switched: Option<Timestamp>,
    /// The questions that were put to the candidate, in order; the last one is the watch.
    #[serde(default)]
    pub gates: Vec<Judged>,
    /// What clients saw, second by second.
    #[serde(default)]
    pub traffic: Vec<Second>,
    /// What was worth a line besides.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A phase and when it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The phase.
    pub phase: Phase,
    /// When.
    pub at: Timestamp,
}

/// A gate's verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// The gate's name.
    pub gate: String,
    /// When it was asked; none when that is not known.
    #[serde(default)]
    pub asked: Option<Timestamp>,
    /// When it had concluded.
    pub judged: Timestamp,
    /// What it concluded.
    pub finding: Finding,
    /// Why, in one sentence.
    pub summary: String,
    /// The figures; the name carries the unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, f64>,
    /// What a person should look at though it stopped nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// How long the active release took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active_latency: Vec<Bin>,
    /// How long the candidate took.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidate_latency: Vec<Bin>,
    /// What went wrong, and how often.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Inputs that the releases disagree on, the worst first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flips: Vec<Flip>,
}

/// What the clients of one color saw in one second.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// The second, in seconds since 1970.
    pub second: i64,
    /// The color that they were meant for.
    pub color: Color,
    /// Their requests.
    pub requests: u64,
    /// Those that this color failed, also when the other one then answered in its place.
    pub failed: u64,
    /// The median of what clients waited, in seconds.
    pub p50: f64,
    /// What 99 % of them waited at most, in seconds.
    pub p99: f64,
}

impl Record {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            schema: SCHEMA,
            plan,
            phases: Vec::new(),
            reason: None,
            switched: None,
            gates: Vec::new(),
            traffic: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// The last phase that was reached.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        Some(self.phases.last()?.phase)
    }

    /// The verdict in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let release = format!("{} {}", self.plan.release.model, self.plan.release.version);
        let Some(phase) = self.phase() else {
            return format!("{release}: not begun");
        };
        match &self.reason {
            Some(reason) => format!("{release} {phase}: {reason}"),
            None => format!("{release}: {phase}, under way or interrupted"),
        }
    }
}

impl Judged {
    /// Takes down a verdict.
    #[must_use]
    pub fn new(gate: &str, asked: Option<Timestamp>, verdict: &Verdict) -> Self {
        let bins = |latencies: &Option<Latencies>| {
            latencies.as_ref().map_or_else(Vec::new, Latencies::bins)
        };
        let Verdict {
            finding,
            summary,
            numbers,
            warnings,
            evidence,
        } = verdict;
        Self {
            gate: gate.to_owned(),
            asked,
            judged: Timestamp::now(),
            finding: *finding,
            summary: summary.clone(),
            // JSON knows no infinity.
            numbers: numbers
                .iter()
                .filter(|(_, value)| value.is_finite())
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            warnings: warnings.clone(),
            active_latency: bins(&evidence.active_latency),
            candidate_latency: bins(&evidence.candidate_latency),
            errors: evidence.errors.clone(),
            flips: evidence.flips.clone(),
        }
    }
}
