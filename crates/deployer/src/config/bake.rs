//! The bake after the switch.

use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

/// What to do with a candidate whose bake ends inconclusively.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInconclusive {
    /// Promote it.
    Promote,
    /// Roll it back.
    Rollback,
    /// Extend the bake by its duration, at most twice; then roll back.
    Extend,
}

/// The bake after the switch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakeSettings {
    /// Duration of the bake.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Time between two observations.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The share of requests that may fail, 0–1.
    pub max_error_rate: f64,
    /// The error rate is judged over the whole bake, and over its last window.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// An error rate needs at least this many requests.
    pub min_requests: u64,
    /// This many failed checks in a row mean that the candidate is unreachable or hangs.
    pub failures: u32,
    /// How much the share of requests may rise that a release refuses with one status, or that clients give up, 0–1.
    pub max_rise: f64,
    /// Whether the previous release is asked by copies of requests before a rise is held against the candidate.
    pub ask_previous: bool,
    /// How many times larger or smaller the typical answer may become, at least 1.
    pub max_size_ratio: f64,
    /// As in [`super::ComparisonSettings`], for p99.
    pub max_ratio: f64,
    /// As in [`super::ComparisonSettings`].
    #[serde(with = "humantime_serde")]
    pub negligible: Duration,
    /// The allowed population stability index of the labels.
    pub max_label_drift: f64,
    /// What to do if the end is inconclusive.
    pub on_inconclusive: OnInconclusive,
    /// What to do with the candidate on a stop signal.
    pub on_interrupt: OnInterrupt,
}

/// What to do with a candidate that has the traffic on a stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnInterrupt {
    /// Finish the bake; the second signal rolls back.
    Continue,
    /// Roll back, because nothing would end the bake.
    Rollback,
}
