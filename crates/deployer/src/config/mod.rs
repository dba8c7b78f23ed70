//! The deployer's settings: from a file, the environment, and flags. The later ones override the earlier ones.
//!
//! The default file `deployer.toml`, which is embedded, documents each setting.

mod alerts;
mod bake;
mod check;
mod color;
mod file;
mod fleet;
mod gates;
mod hooks;
mod keep;
mod monitor;
mod overrides;
mod probe;
mod release;
mod router;

use std::{net::SocketAddr, path::PathBuf};

use serde::Deserialize;

pub use self::{
    alerts::AlertsSettings,
    bake::{BakeSettings, OnInconclusive, OnInterrupt},
    color::ColorSettings,
    fleet::{ComposeSettings, FleetKind, FleetSettings, ProcessSettings},
    gates::{
        AgreementSettings, ComparisonSettings, GateName, GatesSettings, GoldenSettings,
        HeadroomSettings, HealthSettings, LoadSettings, OnInconclusiveGate, ShadowSettings,
        SmokeSettings,
    },
    hooks::HooksSettings,
    keep::KeepSettings,
    monitor::MonitorSettings,
    probe::ProbeSettings,
    release::ReleaseSettings,
    router::RouterSettings,
};
pub use check::check;
pub use file::{SettingsError, load};
pub use overrides::{DeployOverrides, GlobalOverrides};

use crate::color::Color;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The directory of the settings file. Hooks run there.
    #[serde(skip)]
    pub directory: PathBuf,
    /// Directory of the journal, the lock, and the logs of processes.
    pub state: PathBuf,
    /// No deployment begins with less free disk space, in megabytes.
    pub min_free_megabytes: u64,
    /// The release.
    pub release: ReleaseSettings,
    /// The router.
    pub router: RouterSettings,
    /// The blue color.
    pub blue: ColorSettings,
    /// The green color.
    pub green: ColorSettings,
    /// The fleet.
    pub fleet: FleetSettings,
    /// Requests to a model server.
    pub probe: ProbeSettings,
    /// The wait for a healthy candidate.
    pub health: HealthSettings,
    /// The gates before the switch.
    pub gates: GatesSettings,
    /// The gate `smoke`.
    pub smoke: SmokeSettings,
    /// The gate `golden`.
    pub golden: GoldenSettings,
    /// The gate `agreement`.
    pub agreement: AgreementSettings,
    /// The gate `load`.
    pub load: LoadSettings,
    /// The gate `comparison`.
    pub comparison: ComparisonSettings,
    /// The gate `headroom`.
    pub headroom: HeadroomSettings,
    /// The gate `shadow`.
    pub shadow: ShadowSettings,
    /// The bake after the switch.
    pub bake: BakeSettings,
    /// The hooks around each phase.
    pub hooks: HooksSettings,
    /// What is kept of earlier deployments.
    pub keep: KeepSettings,
    /// `deployer monitor`.
    pub monitor: MonitorSettings,
    /// The receivers of alerts.
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
