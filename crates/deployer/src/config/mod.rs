//! The deployer's settings: from a file, the environment, and flags. The later ones override the earlier ones.
//!
//! The embedded file `defaults.toml` documents each setting.

mod alerts;
mod approval;
mod bake;
mod check;
mod color;
mod drain;
mod file;
mod fleet;
mod gates;
mod hooks;
mod keep;
mod monitor;
mod optional;
mod overrides;
mod page;
mod probe;
mod release;
mod router;
mod routers;
mod service;
mod settings;
mod traces;
mod windows;

pub use self::{
    alerts::AlertsSettings,
    approval::{ApprovalPoint, ApprovalSettings},
    bake::{BakeSettings, OnInconclusive, OnInterrupt},
    color::ColorSettings,
    drain::DrainSettings,
    fleet::{ComposeSettings, FleetKind, FleetSettings, KubernetesSettings, ProcessSettings},
    gates::{
        AgreementSettings, ComparisonSettings, GateName, GatesSettings, GoldenSettings,
        HeadroomSettings, HealthSettings, LoadSettings, OnInconclusiveGate, ShadowSettings,
        SmokeSettings, WarmSettings,
    },
    hooks::HooksSettings,
    keep::KeepSettings,
    monitor::MonitorSettings,
    page::{PageSettings, PageUrl},
    probe::{ProbeKind, ProbeSettings, StreamSettings},
    release::ReleaseSettings,
    router::RouterSettings,
    routers::RoutersSettings,
    service::ServiceSettings,
    settings::Settings,
    traces::TracesSettings,
    windows::{Freeze, Window, WindowsSettings},
};
pub use check::check;
pub use file::{SettingsError, load};
pub use overrides::{DeployOverrides, GlobalOverrides};
