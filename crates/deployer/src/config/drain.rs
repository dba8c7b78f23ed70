//! How long requests take that are under way when a server is stopped.

use std::time::Duration;

use serde::Deserialize;

/// Requests that are under way when a server is stopped.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainSettings {
    /// The longest answer, such as a stream; zero if it does not matter.
    #[serde(with = "humantime_serde")]
    pub longest: Duration,
}
