//! The ports, met for real: nginx, HTTP, processes and Docker Compose.

mod access_log;
mod compose;
mod http;
mod nginx;
mod process;
mod unmanaged;

use crate::{
    config::{FleetKind, Settings},
    ports::{Fleet, Traffic, World, WorldError},
};

pub use http::read_inputs;

/// Keeps the access log from filling the disk; call it before the ports are connected.
pub fn trim_access_log(settings: &Settings) -> Result<(), WorldError> {
    let Some(path) = &settings.router.access_log else {
        return Ok(());
    };
    access_log::AccessLog::trim(path).map_err(|error| {
        WorldError(format!(
            "cannot empty {}, which is large: {error}",
            path.display()
        ))
    })
}

/// Connects the ports; `inputs` are the bodies of test requests, where the command sends any.
pub fn connect(settings: &Settings, inputs: Vec<String>) -> Result<World, WorldError> {
    let probe = http::HttpProbe::new(settings, inputs)?;
    let fleet: Box<dyn Fleet> = match settings.fleet.kind {
        FleetKind::Compose => Box::new(compose::ComposeFleet::new(settings)),
        FleetKind::Process => Box::new(process::ProcessFleet::new(settings)),
        FleetKind::Static => Box::new(unmanaged::UnmanagedFleet),
    };
    let traffic = settings.router.access_log.as_ref().map(|path| {
        let traffic: Box<dyn Traffic> = Box::new(access_log::AccessLog::new(path));
        traffic
    });
    Ok(World {
        router: Box::new(nginx::Nginx::new(settings)?),
        traffic,
        fleet,
        probe: Box::new(probe),
    })
}
