//! A release: what the deployer wants, and what a server reports.

use serde::{Deserialize, Serialize};

/// The release that the candidate must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The model's name.
    pub model: String,
    /// The version.
    pub version: String,
    /// SHA-256 of the model's files, 64 hexadecimal digits; `None` if this machine does not have the files.
    pub digest: Option<String>,
}

/// A release that a color holds, as the fleet can start it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRelease {
    /// The version.
    pub version: String,
    /// The image; `None` if the fleet has no images, or starts its default image.
    pub image: Option<String>,
    /// SHA-256 of the model's files that the server reported; `None` if it did not.
    pub digest: Option<String>,
}

/// The answer to a health check that passed.
///
/// Answering `GET /health` with 200 is enough. A missing field makes a gate impossible; that gate is skipped
/// and says so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The model's name.
    pub model_name: Option<String>,
    /// The version that the server serves.
    pub model_version: Option<String>,
    /// SHA-256 of the files that the server serves, 64 hexadecimal digits.
    pub model_digest: Option<String>,
    /// Seconds since the server's start.
    pub uptime_seconds: Option<f64>,
    /// Requests since the server's start.
    pub request_count: Option<u64>,
    /// Requests since the server's start that ended with a 5xx status.
    pub error_count: Option<u64>,
    /// The server's time limits.
    pub time_limits: Option<TimeLimits>,
}

/// The time limits of a server, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TimeLimits {
    /// How long a client waits for a prediction.
    pub request_timeout_seconds: f64,
    /// How long a connection may be idle.
    pub idle_timeout_seconds: f64,
    /// How long new requests are served after a stop signal.
    pub grace_seconds: f64,
}
