//! What is kept of earlier deployments.

use serde::Deserialize;

/// How much of earlier deployments is kept.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepSettings {
    /// The number of reports.
    pub reports: usize,
    /// The number of unused images of the model server.
    pub images: usize,
    /// The router's logs are emptied above this size, in megabytes.
    pub log_megabytes: u64,
}
