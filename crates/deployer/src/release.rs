//! What a color serves: what is wanted there, and what it says of itself.

use serde::{Deserialize, Serialize};

/// What the candidate must turn out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The model's name.
    pub model: String,
    /// The version.
    pub version: String,
    /// SHA-256 of the model's files, 64 hexadecimal digits, where the deployer can know it.
    pub digest: Option<String>,
}

/// What a server answered to a health check that it passed.
///
/// `GET /health` answering 200 is all that a server must do: each field that it leaves out makes
/// one question impossible to ask, and the gate that would have asked it says so.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Health {
    /// The model's name.
    pub model_name: Option<String>,
    /// The version that the server serves.
    pub model_version: Option<String>,
    /// SHA-256 of the files that it serves, 64 hexadecimal digits.
    pub model_digest: Option<String>,
    /// Seconds since its start.
    pub uptime_seconds: Option<f64>,
    /// Requests since its start.
    pub request_count: Option<u64>,
    /// Requests since its start that failed by its own fault.
    pub error_count: Option<u64>,
}
