//! The deployer's settings: a file, the environment and flags, in rising order of authority.
//!
//! What each key means stands in the default file, `deployer.toml`, which is embedded here.

mod file;
mod overrides;

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Deserialize;

pub use file::{SettingsError, load};
pub use overrides::{DeployOverrides, GlobalOverrides};

use crate::color::Color;

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Directory of the journal, the lock and the logs of processes.
    pub state: PathBuf,
    /// What is deployed.
    pub release: ReleaseSettings,
    /// Where nginx is and how to talk to it.
    pub router: RouterSettings,
    /// The blue color.
    pub blue: ColorSettings,
    /// The green color.
    pub green: ColorSettings,
    /// Who starts and stops the servers.
    pub fleet: FleetSettings,
    /// How a model server is asked.
    pub probe: ProbeSettings,
    /// Waiting for a candidate to become healthy.
    pub health: HealthSettings,
    /// Test requests before the switch.
    pub smoke: SmokeSettings,
    /// Watching after the switch.
    pub watch: WatchSettings,
}

impl Settings {
    /// The settings of one color.
    #[must_use]
    pub fn color(&self, color: Color) -> &ColorSettings {
        match color {
            Color::Blue => &self.blue,
            Color::Green => &self.green,
        }
    }
}

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
    /// The access log; none when this machine cannot read it.
    #[serde(deserialize_with = "empty_is_none")]
    pub access_log: Option<PathBuf>,
    /// How long to wait for the router to answer as it was told.
    #[serde(with = "humantime_serde")]
    pub confirm_timeout: Duration,
}

/// One color.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColorSettings {
    /// The server's address, without a trailing slash.
    pub url: String,
    /// The version that `up` starts when nothing was ever deployed to this color.
    pub version: String,
}

/// Who starts and stops the servers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSettings {
    /// Which of the kinds below is used.
    pub kind: FleetKind,
    /// Settings of the kind `compose`.
    pub compose: ComposeSettings,
    /// Settings of the kind `process`.
    pub process: ProcessSettings,
}

/// The kinds of fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FleetKind {
    /// `docker compose` services.
    Compose,
    /// Child processes on this machine.
    Process,
    /// Something else starts and stops the servers.
    Static,
}

/// Settings of the kind `compose`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComposeSettings {
    /// The Compose file.
    pub file: PathBuf,
    /// Where the version of each color is kept for Compose.
    pub environment_file: PathBuf,
    /// How long one command may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// Settings of the kind `process`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSettings {
    /// The model server's program and arguments.
    pub command: Vec<String>,
    /// nginx's program.
    pub nginx: PathBuf,
    /// nginx's main configuration file.
    pub nginx_configuration: PathBuf,
    /// nginx's prefix.
    pub nginx_prefix: PathBuf,
    /// SIGKILL follows SIGTERM after this long.
    #[serde(with = "humantime_serde")]
    pub stop_timeout: Duration,
}

/// How a model server is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSettings {
    /// Path of the health check.
    pub health_path: String,
    /// Path of predictions.
    pub predict_path: String,
    /// JSONL file of test inputs.
    pub inputs: PathBuf,
    /// What takes longer has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}

/// Waiting for a candidate to become healthy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthSettings {
    /// Health checks before giving up, at least 1.
    pub tries: u32,
    /// Time between them.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
}

/// Test requests before the switch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SmokeSettings {
    /// How many, at least 1.
    pub requests: u32,
    /// The share of them that may fail, 0–1.
    pub max_error_rate: f64,
}

/// Watching after the switch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSettings {
    /// How long.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Time between two looks.
    #[serde(with = "humantime_serde")]
    pub interval: Duration,
    /// The share of requests that may fail, 0–1.
    pub max_error_rate: f64,
    /// Fewer requests say nothing about a rate.
    pub min_requests: u64,
    /// So many failed checks in a row mean that the candidate is unreachable or hangs.
    pub failures: u32,
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}
