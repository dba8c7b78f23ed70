//! The ports, met for real: nginx, HTTP, processes and Docker Compose.

mod access_log;
pub mod alerts;
mod compose;
mod hooks;
mod http;
pub(crate) mod listeners;
pub mod load;
pub(crate) mod nginx;
mod nginx_files;
mod process;
mod unmanaged;
mod version;

use crate::{
    config::{FleetKind, Settings},
    ports::{Fleet, Traffic, World, WorldError},
};

/// How the deployer names itself: the router tells its requests from those of clients by this.
const USER_AGENT: &str = concat!("deployer/", env!("CARGO_PKG_VERSION"));

/// Keeps the router's logs from filling the disk. What is in them is lost: call it when nothing more is
/// judged by it.
pub fn trim_logs(settings: &Settings) -> Result<(), WorldError> {
    let logs = [&settings.router.access_log, &settings.router.shadow_log];
    for path in logs.into_iter().flatten() {
        access_log::AccessLog::trim(path, settings.keep.log_megabytes << 20).map_err(|error| {
            WorldError(format!(
                "cannot empty {}, which is large: {error}",
                path.display()
            ))
        })?;
    }
    Ok(())
}

/// Connects the ports.
pub fn connect(settings: &Settings) -> Result<World, WorldError> {
    let probe = http::HttpProbe::new(settings)?;
    let fleet: Box<dyn Fleet> = match settings.fleet.kind {
        FleetKind::Compose => Box::new(compose::ComposeFleet::new(settings)),
        FleetKind::Process => Box::new(process::ProcessFleet::new(settings)),
        FleetKind::Static => Box::new(unmanaged::UnmanagedFleet),
    };
    let log = |path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|path| {
            let traffic: Box<dyn Traffic> = Box::new(access_log::AccessLog::new(path));
            traffic
        })
    };
    Ok(World {
        router: Box::new(nginx::Nginx::new(settings)?),
        traffic: log(&settings.router.access_log),
        shadow: log(&settings.router.shadow_log),
        fleet,
        probe: Box::new(probe),
        hooks: Box::new(hooks::Commands::new(settings)),
    })
}

/// What a server gives as the date, as in HTTP.
pub async fn date_of(url: &str, timeout: std::time::Duration) -> Result<String, String> {
    let client = http::client(timeout).map_err(|error| error.to_string())?;
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| format!("GET {url} failed: {}", http::cause(&error)))?;
    let date = answer.headers().get("date").and_then(|it| it.to_str().ok());
    date.map(str::to_owned)
        .ok_or_else(|| format!("GET {url} was answered without a date"))
}

/// What a server gives at an address, whatever its status.
pub async fn text_of(url: &str, timeout: std::time::Duration) -> Result<String, String> {
    let client = http::client(timeout).map_err(|error| error.to_string())?;
    http::answer(client.get(url)).await.map(|(_, text)| text)
}
