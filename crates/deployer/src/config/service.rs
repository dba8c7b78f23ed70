//! What the service behind the router is like.

use serde::Deserialize;

use crate::ports::Repeat;

/// What the service behind the router is like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSettings {
    /// Which failed requests the router may repeat. `doctor` compares this with the router's files.
    pub repeat: Repeat,
}
