//! Receivers of alerts.

use serde::Deserialize;

/// Receivers of alerts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsSettings {
    /// URL that receives one JSON object per alert; empty for none.
    pub webhook: String,
    /// URL that receives a message in Slack's format; empty for none.
    pub slack: String,
    /// How many times an undelivered alert is sent, at growing intervals.
    pub tries: u32,
}
