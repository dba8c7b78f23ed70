//! One color.

use serde::Deserialize;

/// One color.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorSettings {
    /// The server's address, without a trailing slash.
    pub url: String,
    /// The version that `up` starts if none was ever deployed to this color.
    pub version: String,
}
