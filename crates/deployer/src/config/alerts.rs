//! Receivers of alerts and of the ends of deployments.

use std::time::Duration;

use serde::Deserialize;

/// Receivers of alerts and of the ends of deployments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsSettings {
    /// URL that receives one JSON object per notification; empty for none.
    pub webhook: String,
    /// URL that receives a message in Slack's format; empty for none.
    pub slack: String,
    /// How long an undelivered notification is kept and sent again.
    #[serde(with = "humantime_serde")]
    pub give_up_after: Duration,
}
