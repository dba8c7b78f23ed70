//! The fleet: what starts and stops the servers.

use clap::ValueEnum;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// What starts and stops the servers.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetSettings {
    /// The kind of fleet.
    pub kind: FleetKind,
    /// Settings of the kind `compose`.
    pub compose: ComposeSettings,
    /// Settings of the kind `process`.
    pub process: ProcessSettings,
    /// Settings of the kind `kubernetes`.
    pub kubernetes: KubernetesSettings,
}

/// The kinds of fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum FleetKind {
    /// `docker compose` services.
    Compose,
    /// Child processes on this machine.
    Process,
    /// Deployments of the cluster in which the deployer runs.
    Kubernetes,
    /// Something else starts and stops the servers.
    Static,
}

/// Settings of the kind `compose`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComposeSettings {
    /// The Compose file.
    pub file: PathBuf,
    /// The file that holds the version and the image of each color for Compose.
    pub environment_file: PathBuf,
    /// The image to start a release from; empty for the color's current image.
    pub image: String,
    /// Time limit of one command.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Time limit of pulling an image.
    #[serde(with = "humantime_serde")]
    pub pull_timeout: Duration,
}

/// Settings of the kind `process`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSettings {
    /// The model server's program and arguments.
    pub command: Vec<String>,
    /// nginx's program.
    pub nginx: PathBuf,
    /// nginx's prefix.
    pub nginx_prefix: PathBuf,
    /// SIGKILL follows SIGTERM after this time.
    #[serde(with = "humantime_serde")]
    pub stop_timeout: Duration,
}

/// Settings of the kind `kubernetes`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KubernetesSettings {
    /// The image of a release, with `{version}` for its version; empty for the image that the Deployment has.
    pub image: String,
    /// The name of the server's container in the Deployments.
    pub container: String,
    /// How many replicas a color has when it runs.
    pub replicas: u32,
    /// How long all replicas may take to become ready, or to end.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}
