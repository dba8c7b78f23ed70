//! nginx: addresses, flags, and logs.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::config::optional::empty_is_none;

/// Where nginx is and how to talk to it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterSettings {
    /// Where clients come in, without a trailing slash.
    pub url: String,
    /// The control port, without a trailing slash.
    pub control: String,
    /// The directory of the flag files.
    pub flags: PathBuf,
    /// nginx's main configuration file; none when this machine does not have it.
    #[serde(deserialize_with = "empty_is_none")]
    pub configuration: Option<PathBuf>,
    /// The access log; none when this machine cannot read it.
    #[serde(deserialize_with = "empty_is_none")]
    pub access_log: Option<PathBuf>,
    /// The error log, which tells answers that broke off; none likewise.
    #[serde(deserialize_with = "empty_is_none")]
    pub error_log: Option<PathBuf>,
    /// The log of mirrored requests; none likewise.
    #[serde(deserialize_with = "empty_is_none")]
    pub shadow_log: Option<PathBuf>,
    /// How long to wait for the router to answer as it was told.
    #[serde(with = "humantime_serde")]
    pub confirm_timeout: Duration,
}
