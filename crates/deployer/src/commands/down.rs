//! `deployer down`

use anyhow::anyhow;

use crate::{
    adapters::{listeners, monitor_process},
    commands::output::CommandOutput,
    config::{FleetKind, Settings},
    ports::{PortError, Ports, Service},
};

/// Stops the monitor, the router, and both colors. Goes on after an error, and fails if anything is left.
pub(super) async fn run(settings: &Settings, ports: &Ports) -> anyhow::Result<CommandOutput> {
    let mut left = Vec::new();
    let mut keep = |stopped: Result<(), PortError>| left.extend(stopped.err());
    // The monitor first: it would alert that everything is down, and may start a standby again.
    keep(monitor_process::stop(&settings.state).await);
    keep(ports.fleet.stop_monitor().await);
    // The router finishes the requests in flight while both colors still answer.
    if !settings.routers.are_used() {
        keep(ports.fleet.stop(Service::Router).await);
    }
    left.extend(ports.fleet.stop_servers().await);
    let mut left: Vec<String> = left.iter().map(ToString::to_string).collect();
    if settings.fleet.kind == FleetKind::Static {
        let text = "the monitor is stopped; the fleet `static` stops no other service";
        return conclude(text, &left);
    }
    let mut urls = vec![&settings.blue.url, &settings.green.url];
    if !settings.routers.are_used() {
        urls.splice(..0, [&settings.router.url, &settings.router.control]);
    }
    left.extend(
        urls.into_iter()
            .filter_map(|url| Some(format!("{} still listens at {url}", listeners::at(url)?))),
    );
    conclude("down", &left)
}

fn conclude(text: &str, left: &[String]) -> anyhow::Result<CommandOutput> {
    if left.is_empty() {
        return Ok(CommandOutput::success(text));
    }
    Err(anyhow!("not everything is down: {}", left.join("; ")))
}
