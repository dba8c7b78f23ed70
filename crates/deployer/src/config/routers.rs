//! Several routers that switch as one.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::config::optional::empty_is_none;

/// Several routers, whose flags are in a store.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutersSettings {
    /// The URL of the store, without a trailing slash; empty for one router whose flags this machine has.
    pub store: String,
    /// The file of the token that deployers, agents, and the store share.
    #[serde(deserialize_with = "empty_is_none")]
    pub token_file: Option<PathBuf>,
    /// How long a router that promised may serve without an answer.
    #[serde(with = "humantime_serde")]
    pub fence: Duration,
}

impl RoutersSettings {
    /// Whether there is a store, and so there may be several routers.
    #[must_use]
    pub fn are_used(&self) -> bool {
        !self.store.is_empty()
    }
}
