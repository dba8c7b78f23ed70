//! Implementations of the ports: nginx, HTTP, processes, and Docker Compose.

mod clock;
mod compose;
mod hooks;
mod http;
pub(crate) mod listeners;
pub mod load;
pub(crate) mod monitor_process;
pub(crate) mod nginx;
pub mod notify;
mod process;
mod state_directory;
mod static_fleet;
mod store;
pub(crate) mod token_file;
pub(crate) mod traces;
mod user_agent;
mod version;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use self::{clock::SystemClock, state_directory::StateDirectory, store::HttpStore};
use self::{
    nginx::{flags::FlagDirectory, log_file, request_log::AccessLog},
    user_agent::UserAgent,
};
use crate::{
    config::{FleetKind, RouterSettings, Settings},
    ports::{Fleet, PortError, Ports, RequestLog},
};

/// Empties the router's logs if they are too large. Call it only when no verdict needs their content any more.
pub fn trim_logs(settings: &Settings) -> Result<(), PortError> {
    let router = &settings.router;
    let logs = [&router.access_log, &router.error_log, &router.shadow_log];
    for path in logs.into_iter().flatten() {
        log_file::trim(path, settings.keep.log_megabytes << 20).map_err(|error| {
            let message = format!("cannot empty {}, which is large: {error}", path.display());
            PortError::of_file(&error, message)
        })?;
    }
    Ok(())
}

/// Creates the ports.
pub fn connect(settings: &Settings) -> Result<Ports, PortError> {
    let user_agent = Arc::new(UserAgent::of_installation(&settings.state));
    let probe = http::HttpProbe::new(settings, user_agent.clone())?;
    let fleet: Box<dyn Fleet> = match settings.fleet.kind {
        FleetKind::Compose => Box::new(compose::ComposeFleet::new(settings)),
        FleetKind::Process => Box::new(process::ProcessFleet::new(settings)),
        FleetKind::Static => Box::new(static_fleet::StaticFleet),
    };
    let RouterSettings {
        access_log,
        error_log,
        shadow_log,
        ..
    } = &settings.router;
    let log = |path: &Option<PathBuf>, error_log: Option<&Path>| {
        let path = path.as_ref()?;
        let log: Box<dyn RequestLog> =
            Box::new(AccessLog::new(path, error_log, user_agent.clone()));
        Some(log)
    };
    Ok(Ports {
        router: Box::new(nginx::router::Nginx::new(settings)?),
        flags: Box::new(FlagDirectory::new(settings.router.flags.clone())),
        request_log: log(access_log, error_log.as_deref()),
        // nginx reads no more than the head of an answer to a copy, so none can break off.
        shadow_log: log(shadow_log, None),
        fleet,
        probe: Box::new(probe),
        hooks: Box::new(hooks::Commands::new(settings)),
        lock: Box::new(StateDirectory::new(&settings.state)),
        journal: Box::new(StateDirectory::new(&settings.state)),
        clock: Box::new(SystemClock),
    })
}

/// The ports of an installation whose state is in this directory.
#[cfg(test)]
pub(crate) fn connect_in(state: &Path) -> Ports {
    let file = state.join("deployer.toml");
    std::fs::write(&file, "state = \".\"\n").unwrap();
    let settings = crate::config::load(Some(&file), &[]).unwrap();
    connect(&settings).unwrap()
}

/// Returns the `Date` header of a response.
pub async fn date_of(url: &str, timeout: std::time::Duration) -> Result<String, String> {
    let client = http::client(timeout).map_err(|error| error.to_string())?;
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| format!("GET {url} failed: {}", http::cause(&error)))?;
    let date = answer.headers().get("date").and_then(|it| it.to_str().ok());
    date.map(str::to_owned)
        .ok_or_else(|| format!("GET {url} was answered without a date"))
}

/// Returns the body of a response with any status.
pub async fn text_of(url: &str, timeout: std::time::Duration) -> Result<String, String> {
    let client = http::client(timeout).map_err(|error| error.to_string())?;
    let answer = http::answer(client.get(url), &format!("GET {url}")).await;
    let (_, text) = answer.map_err(|error| error.to_string())?;
    Ok(text)
}
