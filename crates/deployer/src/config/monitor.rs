//! `deployer monitor`.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;

use crate::{config::optional::empty_is_no_address, monitor::health::HealthTracker};

/// Settings of `deployer monitor`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorSettings {
    /// Time between two checks.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// So many failed checks in a row, and a color is down.
    pub fall: u32,
    /// So many passed checks in a row, and it is up again.
    pub rise: u32,
    /// Whether a standby that does not run is started.
    pub restart_standby: bool,
    /// Whether traffic moves to the standby by itself when the active color is down.
    pub failover: bool,
    /// Where metrics are served; none for not at all.
    #[serde(deserialize_with = "empty_is_no_address")]
    pub metrics: Option<SocketAddr>,
    /// Where the page is served; `None` for not at all.
    #[serde(deserialize_with = "empty_is_no_address")]
    pub page: Option<SocketAddr>,
}

impl MonitorSettings {
    /// Returns a tracker with these limits for something that is `up`.
    #[must_use]
    pub fn health_tracker(&self, up: bool) -> HealthTracker {
        HealthTracker::new(self.fall, self.rise, up)
    }
}
