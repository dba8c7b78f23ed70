//! OpenTelemetry traces.

use serde::Deserialize;

/// Where traces of deployments are sent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesSettings {
    /// The collector, such as `http://localhost:4318`; empty for no traces.
    pub endpoint: String,
}
