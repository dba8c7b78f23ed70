//! The release, and where releases lie.

use std::path::PathBuf;

use serde::Deserialize;

use crate::config::optional::empty_is_none;

/// What is deployed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseSettings {
    /// The model's name.
    pub model: String,
    /// Where releases lie; none when this machine does not have them.
    #[serde(deserialize_with = "empty_is_none")]
    pub model_root: Option<PathBuf>,
}
