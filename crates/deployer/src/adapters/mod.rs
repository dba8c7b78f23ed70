//! Implementations of the ports: nginx, HTTP, processes, and Docker Compose.

pub(crate) mod agents;
mod clock;
mod compose;
mod generated;
mod hooks;
pub(crate) mod http;
mod kubernetes;
pub(crate) mod listeners;
pub mod load;
pub(crate) mod monitor_process;
pub(crate) mod nginx;
pub mod notify;
pub(crate) mod process;
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
    time::Duration,
};

use self::{
    agents::{AgentRouters, LogKind, MergedLog, RoutersProbe},
    http::HttpProbe,
    nginx::{flags::FlagDirectory, log_file, request_log::AccessLog},
    user_agent::UserAgent,
};
pub use self::{clock::SystemClock, state_directory::StateDirectory, store::HttpStore};
use crate::{
    config::{FleetKind, RouterSettings, Settings},
    ports::{Flags, Fleet, PortError, Ports, Probe, RequestLog, Router, TruthStore},
};

/// Empties the router's logs if they are too large. Call it only when no verdict needs their content any more.
pub fn trim_logs(settings: &Settings) -> Result<(), PortError> {
    let limit = settings.keep.log_megabytes << 20;
    if settings.routers.are_used() {
        return agents::trim_mirrors(&settings.state, limit);
    }
    let router = &settings.router;
    let logs = [&router.access_log, &router.error_log, &router.shadow_log];
    for path in logs.into_iter().flatten() {
        log_file::trim(path, limit).map_err(|error| {
            let message = format!("cannot empty {}, which is large: {error}", path.display());
            PortError::of_file(&error, message)
        })?;
    }
    Ok(())
}

/// Creates the ports.
pub fn connect(settings: &Settings) -> Result<Ports, PortError> {
    let user_agent = Arc::new(UserAgent::of_installation(&settings.state));
    let probe = HttpProbe::new(settings, user_agent.clone())?;
    let fleet: Box<dyn Fleet> = match settings.fleet.kind {
        FleetKind::Compose => Box::new(compose::ComposeFleet::new(settings)),
        FleetKind::Process => Box::new(process::ProcessFleet::new(settings)),
        FleetKind::Kubernetes => Box::new(kubernetes::KubernetesFleet::connect(settings)?),
        FleetKind::Static => Box::new(static_fleet::StaticFleet),
    };
    let RouterPorts {
        router,
        flags,
        request_log,
        shadow_log,
        probe,
    } = if settings.routers.are_used() {
        several_routers(settings, probe, &user_agent)?
    } else {
        one_router(settings, probe, &user_agent)?
    };
    Ok(Ports {
        router,
        flags,
        request_log,
        shadow_log,
        fleet,
        probe,
        hooks: Box::new(hooks::Commands::new(settings)),
        lock: Box::new(StateDirectory::new(&settings.state)),
        journal: Box::new(StateDirectory::new(&settings.state)),
        clock: Box::new(SystemClock),
    })
}

/// Connects to the store of several routers: `deployer store` at a URL, or a ConfigMap as `kubernetes:NAME`. `token_file` is
/// for the former.
pub(crate) fn connect_store(
    store: &str,
    token_file: &Path,
    timeout: Duration,
) -> Result<Arc<dyn TruthStore>, PortError> {
    Ok(match store.strip_prefix("kubernetes:") {
        Some(name) => Arc::new(kubernetes::ConfigMapStore::connect(name, timeout)?),
        None => Arc::new(HttpStore::new(store, token_file, timeout)?),
    })
}

/// The ports that depend on how many routers there are.
struct RouterPorts {
    router: Box<dyn Router>,
    flags: Box<dyn Flags>,
    request_log: Option<Box<dyn RequestLog>>,
    shadow_log: Option<Box<dyn RequestLog>>,
    probe: Box<dyn Probe>,
}

/// One router, whose flags and logs this machine has.
fn one_router(
    settings: &Settings,
    probe: HttpProbe,
    user_agent: &Arc<UserAgent>,
) -> Result<RouterPorts, PortError> {
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
    Ok(RouterPorts {
        router: Box::new(nginx::router::Nginx::new(settings)?),
        flags: Box::new(FlagDirectory::new(settings.router.flags.clone())),
        request_log: log(access_log, error_log.as_deref()),
        // nginx reads no more than the head of an answer to a copy, so none can break off.
        shadow_log: log(shadow_log, None),
        probe: Box::new(probe),
    })
}

/// Several routers, whose flags are in a store, and whose logs their agents have.
fn several_routers(
    settings: &Settings,
    probe: HttpProbe,
    user_agent: &Arc<UserAgent>,
) -> Result<RouterPorts, PortError> {
    let routers = AgentRouters::connect(settings)?;
    let log = |kind| -> Option<Box<dyn RequestLog>> {
        let (routers, state) = (routers.clone(), settings.state.clone());
        Some(Box::new(MergedLog::new(
            kind,
            routers,
            state,
            user_agent.clone(),
        )))
    };
    let health_path = settings.probe.health_path.clone();
    Ok(RouterPorts {
        request_log: log(LogKind::Access),
        shadow_log: log(LogKind::Shadow),
        probe: Box::new(RoutersProbe::new(probe, routers.clone(), health_path)),
        flags: Box::new(routers.clone()),
        router: Box::new(routers),
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
pub async fn date_of(url: &str, timeout: Duration) -> Result<String, String> {
    let client = http::client(timeout).map_err(|error| error.to_string())?;
    let answer = client.get(url).send().await;
    let answer = answer.map_err(|error| format!("GET {url} failed: {}", http::cause(&error)))?;
    let date = answer.headers().get("date").and_then(|it| it.to_str().ok());
    date.map(str::to_owned)
        .ok_or_else(|| format!("GET {url} was answered without a date"))
}

/// Returns the body of a response with any status.
pub async fn text_of(url: &str, timeout: Duration) -> Result<String, String> {
    let client = http::client(timeout).map_err(|error| error.to_string())?;
    let answer = http::answer(client.get(url), &format!("GET {url}")).await;
    let (_, text) = answer.map_err(|error| error.to_string())?;
    Ok(text)
}
