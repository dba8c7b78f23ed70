//! The gates before the switch.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Deserialize;

use crate::config::optional::empty_is_none;

/// Waiting for a candidate to become healthy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// Time between two checks.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// A candidate that makes no progress for this long is refused.
    #[serde(with = "humantime_serde")]
    pub stall: Duration,
    /// A candidate that is not healthy by then is refused, whatever progress it makes.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
}

/// The gates before the switch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatesSettings {
    /// The gates to run, in the order of [`GateName`].
    pub run: Vec<GateName>,
    /// What to do if a gate is inconclusive.
    pub on_inconclusive: OnInconclusiveGate,
}

/// The gates, in the order in which they run: cheap ones first, and each after those whose measurements it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum GateName {
    /// Name, version, and digest are the wanted ones.
    Identity,
    /// The router reaches the candidate.
    Reachable,
    /// The candidate answers test requests.
    Smoke,
    /// The candidate's accuracy on labeled inputs.
    Golden,
    /// Equal answers of candidate and active release.
    Agreement,
    /// Requests until the candidate's latency is level.
    Warm,
    /// The candidate under load.
    Load,
    /// The candidate's latency beside the active release's.
    Comparison,
    /// The distance of the worst latency to the router's timeout.
    Headroom,
    /// Copies of client requests.
    Shadow,
}

/// What to do with a candidate if a gate is inconclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInconclusiveGate {
    /// Refuse it.
    Refuse,
    /// Continue with the next gate.
    Proceed,
}

/// The gate `smoke`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmokeSettings {
    /// The number of test requests, at least 1.
    pub requests: u32,
    /// The share of them that may fail, 0–1.
    pub max_error_rate: f64,
}

/// The gate `golden`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSettings {
    /// The least accuracy, 0–1.
    pub min_accuracy: f64,
    /// How much lower than the active release's the accuracy may be, 0–1.
    pub max_drop: f64,
    /// The least number of labeled inputs.
    pub min_inputs: usize,
}

/// The gate `agreement`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementSettings {
    /// JSONL file of inputs; `None` for `probe.inputs`.
    #[serde(deserialize_with = "empty_is_none")]
    pub inputs: Option<PathBuf>,
    /// Warn below this share of equal labels, 0–1.
    pub warn_below: f64,
    /// Refuse below this share of equal labels, 0–1.
    pub min_agreement: f64,
    /// Warn above this population stability index of the confidence.
    pub warn_drift: f64,
}

/// The gate `warm`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WarmSettings {
    /// How many answers each of the two compared medians is of, at least 5.
    pub window: usize,
    /// The most requests.
    pub requests: u32,
    /// No request begins later.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// The share of requests that may fail, 0–1.
    pub max_error_rate: f64,
}

/// The gate `load`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSettings {
    /// JSONL file of inputs; `None` for `probe.inputs`.
    #[serde(deserialize_with = "empty_is_none")]
    pub inputs: Option<PathBuf>,
    /// Requests per second at even intervals; 0 for a little more than the busiest second of clients before.
    pub rate: f64,
    /// Concurrent requests instead of a rate; 0 for a rate.
    pub concurrency: usize,
    /// Duration of the load.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// A request that takes longer has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The highest p99 of the candidate, and, during the load, of the active color's clients.
    #[serde(with = "humantime_serde")]
    pub max_p99: Duration,
    /// The share of requests that may fail, 0–1.
    pub max_error_rate: f64,
}

/// The gate `comparison`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparisonSettings {
    /// The highest ratio of the candidate's latency to the active release's, at least 1.
    pub max_ratio: f64,
    /// A difference that is always allowed.
    #[serde(with = "humantime_serde")]
    pub negligible: Duration,
    /// The longest duration.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
}

/// The gate `headroom`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadroomSettings {
    /// The worst latency times this factor must be below the timeout; at least 1.
    pub factor: f64,
}

/// The gate `shadow`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowSettings {
    /// Duration.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// The least number of copies.
    pub min_requests: u64,
    /// The share of copies that may fail, 0–1.
    pub max_error_rate: f64,
    /// As in [`ComparisonSettings`].
    pub max_ratio: f64,
    /// As in [`ComparisonSettings`].
    #[serde(with = "humantime_serde")]
    pub negligible: Duration,
    /// The allowed population stability index of the labels.
    pub max_label_drift: f64,
}
