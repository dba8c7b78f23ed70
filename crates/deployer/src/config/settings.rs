//! All settings, one field a section.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{
    color::Color,
    config::{
        alerts::AlertsSettings,
        approval::ApprovalSettings,
        bake::BakeSettings,
        color::ColorSettings,
        drain::DrainSettings,
        fleet::FleetSettings,
        gates::{
            AgreementSettings, ComparisonSettings, GatesSettings, GoldenSettings, HeadroomSettings,
            HealthSettings, LoadSettings, ShadowSettings, SmokeSettings, WarmSettings,
        },
        hooks::HooksSettings,
        keep::KeepSettings,
        monitor::MonitorSettings,
        page::PageSettings,
        probe::ProbeSettings,
        release::ReleaseSettings,
        router::RouterSettings,
        routers::RoutersSettings,
        service::ServiceSettings,
        traces::TracesSettings,
        windows::WindowsSettings,
    },
};

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
    /// The service behind the router.
    pub service: ServiceSettings,
    /// The router.
    pub router: RouterSettings,
    /// Several routers that switch as one.
    pub routers: RoutersSettings,
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
    /// Requests that are under way when a server is stopped.
    pub drain: DrainSettings,
    /// The gates before the switch.
    pub gates: GatesSettings,
    /// The gate `smoke`.
    pub smoke: SmokeSettings,
    /// The gate `golden`.
    pub golden: GoldenSettings,
    /// The gate `agreement`.
    pub agreement: AgreementSettings,
    /// The gate `warm`.
    pub warm: WarmSettings,
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
    /// Approval by a person.
    pub approval: ApprovalSettings,
    /// The hooks around each phase.
    pub hooks: HooksSettings,
    /// What is kept of earlier deployments.
    pub keep: KeepSettings,
    /// `deployer monitor`.
    pub monitor: MonitorSettings,
    /// The page of `deployer monitor`.
    pub page: PageSettings,
    /// The receivers of alerts.
    pub alerts: AlertsSettings,
    /// Traces of deployments.
    pub traces: TracesSettings,
    /// When deployments may switch.
    pub windows: WindowsSettings,
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
