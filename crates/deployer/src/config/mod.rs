//! The deployer's settings: a file, the environment and flags, in rising order of authority.
//!
//! What each key means stands in the default file, `deployer.toml`, which is embedded here.

mod file;
mod overrides;
mod ranges;

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Deserialize;

pub use file::{SettingsError, load};
pub use overrides::{DeployOverrides, GlobalOverrides};
pub use ranges::check;

use crate::{color::Color, monitor::Pulse, phase::Phase};

/// Everything that can be set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where the settings file lies, or would lie: commands of one's own run there.
    #[serde(skip)]
    pub directory: PathBuf,
    /// Directory of the journal, the lock and the logs of processes.
    pub state: PathBuf,
    /// Nothing is deployed with less free disk space than this, in megabytes.
    pub min_free_megabytes: u64,
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
    /// What a candidate is asked before the switch.
    pub gates: GatesSettings,
    /// Test requests.
    pub smoke: SmokeSettings,
    /// Inputs whose right label is known.
    pub golden: GoldenSettings,
    /// The labels of both releases beside each other.
    pub agreement: AgreementSettings,
    /// Load on the candidate.
    pub load: LoadSettings,
    /// The latencies of both releases beside each other.
    pub comparison: ComparisonSettings,
    /// The distance to the router's time limit.
    pub headroom: HeadroomSettings,
    /// Copies of the clients' requests.
    pub shadow: ShadowSettings,
    /// Watching after the switch.
    pub watch: WatchSettings,
    /// Commands of one's own, around each phase.
    pub hooks: HooksSettings,
    /// What is kept of former deployments.
    pub keep: KeepSettings,
    /// Watching both colors all the time.
    pub monitor: MonitorSettings,
    /// Who is told when a color goes down.
    pub alerts: AlertsSettings,
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
    /// nginx's main configuration file; none when this machine does not have it.
    #[serde(deserialize_with = "empty_is_none")]
    pub configuration: Option<PathBuf>,
    /// The access log; none when this machine cannot read it.
    #[serde(deserialize_with = "empty_is_none")]
    pub access_log: Option<PathBuf>,
    /// The log of mirrored requests; none likewise.
    #[serde(deserialize_with = "empty_is_none")]
    pub shadow_log: Option<PathBuf>,
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
    /// Where the version and the image of each color are kept for Compose.
    pub environment_file: PathBuf,
    /// The image that a release is started from; empty for the one that the color already has.
    pub image: String,
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
    /// JSON pointer to the label in an answer.
    pub label: String,
    /// JSON pointer to the confidence in an answer.
    pub confidence: String,
    /// JSONL file of test inputs.
    pub inputs: PathBuf,
    /// File whose first line that is no comment is sent as the API key; none for servers that want none.
    #[serde(deserialize_with = "empty_is_none")]
    pub api_key_file: Option<PathBuf>,
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

/// What a candidate is asked before the switch.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatesSettings {
    /// The gates that are asked; their order is that of [`GateName`].
    pub run: Vec<GateName>,
    /// What becomes of a candidate of which a gate cannot tell.
    pub on_inconclusive: OnInconclusiveGate,
}

/// The gates that can be chosen, in the order of asking: what is cheap first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum GateName {
    /// Is it the release that is wanted?
    Identity,
    /// Does the router reach it?
    Reachable,
    /// Does it answer test requests?
    Smoke,
    /// Is it right as often as it must be?
    Golden,
    /// Does it say the same as the active release?
    Agreement,
    /// Does it bear load?
    Load,
    /// Is it as fast as the active release?
    Comparison,
    /// Is the worst latency far enough from the router's time limit?
    Headroom,
    /// What does it make of copies of the clients' requests?
    Shadow,
}

/// What becomes of a candidate of which a gate cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInconclusiveGate {
    /// It is refused.
    Refuse,
    /// It goes on to the next gate.
    Proceed,
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

/// Inputs whose right label is known.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenSettings {
    /// The share that must be right, 0–1.
    pub min_accuracy: f64,
    /// By how much that may be below the active release's, 0–1.
    pub max_drop: f64,
    /// Fewer labeled inputs say nothing.
    pub min_inputs: usize,
}

/// The labels of both releases beside each other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgreementSettings {
    /// JSONL file of inputs; none for the test inputs.
    #[serde(deserialize_with = "empty_is_none")]
    pub inputs: Option<PathBuf>,
    /// A lower share of equal labels, 0–1, is worth a warning.
    pub warn_below: f64,
    /// A lower share of equal labels, 0–1, is refused.
    pub min_agreement: f64,
    /// A population stability index of the confidence above this is worth a warning.
    pub warn_drift: f64,
}

/// Load on the candidate.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadSettings {
    /// JSONL file of inputs; none for the test inputs.
    #[serde(deserialize_with = "empty_is_none")]
    pub inputs: Option<PathBuf>,
    /// Requests at a time, at least 1.
    pub concurrency: usize,
    /// For so long.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Requests per second at even intervals; 0 for as many as are answered.
    pub rate: f64,
    /// What takes longer has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The longest that 99 % of the requests may take.
    #[serde(with = "humantime_serde")]
    pub max_p99: Duration,
    /// The share that may fail, 0–1.
    pub max_error_rate: f64,
}

/// The latencies of both releases beside each other.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparisonSettings {
    /// So many times as long as the active release a candidate may take, at least 1.
    pub max_ratio: f64,
    /// What it may take longer in any case.
    #[serde(with = "humantime_serde")]
    pub negligible: Duration,
    /// For so long at most.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
}

/// The distance to the router's time limit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadroomSettings {
    /// The worst latency times this must be below the limit; at least 1.
    pub factor: f64,
}

/// Copies of the clients' requests.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShadowSettings {
    /// For so long.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Fewer copies say nothing.
    pub min_requests: u64,
    /// The share that may fail, 0–1.
    pub max_error_rate: f64,
    /// As in [`ComparisonSettings`].
    pub max_ratio: f64,
    /// As in [`ComparisonSettings`].
    #[serde(with = "humantime_serde")]
    pub negligible: Duration,
    /// The population stability index of the labels that is allowed.
    pub max_label_drift: f64,
}

/// What becomes of a candidate of which the watch cannot tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInconclusive {
    /// It keeps the traffic.
    Promote,
    /// It loses the traffic.
    Rollback,
    /// It is watched for longer, at most twice; then it loses the traffic.
    Extend,
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
    /// The rate is judged over the whole watch, and over its last so much.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// Fewer requests say nothing about a rate.
    pub min_requests: u64,
    /// So many failed checks in a row mean that the candidate is unreachable or hangs.
    pub failures: u32,
    /// As in [`ComparisonSettings`], of p99 alone.
    pub max_ratio: f64,
    /// As in [`ComparisonSettings`].
    #[serde(with = "humantime_serde")]
    pub negligible: Duration,
    /// The population stability index of the labels that is allowed.
    pub max_label_drift: f64,
    /// What becomes of a candidate of which the end cannot tell.
    pub on_inconclusive: OnInconclusive,
    /// What becomes of a candidate when the deployer is told to stop.
    pub on_interrupt: OnInterrupt,
}

/// What becomes of a candidate that has the traffic when the deployer is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnInterrupt {
    /// It is watched to the end all the same; the second time it loses the traffic.
    Continue,
    /// It loses the traffic, since nobody would be watching.
    Rollback,
}

/// Commands of one's own: program and arguments, or nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksSettings {
    /// What takes longer has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Before a phase is gone on to; one that fails keeps the deployment from it.
    pub before: HashMap<Phase, Vec<String>>,
    /// After a phase was reached; what they come to changes nothing.
    pub after: HashMap<Phase, Vec<String>>,
}

/// What is kept of former deployments.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepSettings {
    /// So many reports, the newest.
    pub reports: usize,
    /// So many images of a model server besides those in use, the newest.
    pub images: usize,
    /// The router's logs are emptied beyond this size, in megabytes.
    pub log_megabytes: u64,
}

/// Watching both colors all the time.
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
    /// Whether a standby that does not run any more is started again.
    pub restart_standby: bool,
    /// Whether traffic moves to the standby by itself when the active color is down.
    pub failover: bool,
    /// Where metrics are served; none for not at all.
    #[serde(deserialize_with = "empty_is_no_address")]
    pub metrics: Option<SocketAddr>,
}

impl MonitorSettings {
    /// Something that is checked so often.
    #[must_use]
    pub fn pulse(&self, up: bool) -> Pulse {
        Pulse::new(self.fall, self.rise, up)
    }
}

/// Who is told when a color goes down.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertsSettings {
    /// Gets one JSON object an alert; empty for nobody.
    pub webhook: String,
    /// Gets a message in the shape that Slack and its likes take; empty for nobody.
    pub slack: String,
    /// An alert that is not taken is sent so often in all, at growing intervals.
    pub tries: u32,
}

fn empty_is_no_address<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "{text:?} is no address with a port, such as 127.0.0.1:9109"
        ))
    })?;
    Ok(Some(address))
}

fn empty_is_none<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    Ok((!path.as_os_str().is_empty()).then_some(path))
}
