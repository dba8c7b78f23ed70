//! `deployer up`

use anyhow::anyhow;
use tokio::time::Instant;

use crate::{
    color::Color,
    commands::{output::CommandOutput, steps::stop_leftover_shadow},
    config::Settings,
    deployment::preflight,
    event::{Event, Reporter},
    evidence::sample::TrafficSample,
    examples::Examples,
    gates::{Candidate, Gate as _, GoldenLabels, Healthy},
    ports::{Ports, Service, ServiceState},
    release::Release,
    request_reader::RequestReader,
};

pub(super) async fn run(
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    stop_leftover_shadow(ports, reporter).await;
    if let Err(full) = preflight::room(&settings.state, settings.min_free_megabytes) {
        // After a reboot everything must start nevertheless.
        reporter.report(&Event::Note { text: full });
    }
    // Clients first. The standby starts when clients can be served, and may be unhealthy.
    let active_by_flag = ports.flags.active().await.unwrap_or_else(|error| {
        let text = error.to_string();
        reporter.report(&Event::Note { text });
        // The color without a flag. If it is the wrong one, it starts first, and the other one right after it.
        Color::Blue
    });
    let serving = start_if_stopped(ports, settings, active_by_flag, reporter).await?;
    ports.fleet.start_router().await?;
    let active = await_router(ports, settings).await?;
    let standby = start_if_stopped(ports, settings, active.other(), reporter).await;
    let standby = standby.unwrap_or_else(|error| {
        reporter.report(&Event::Note {
            text: format!("{} does not start: {error}", active.other()),
        });
        held(settings, active.other(), None)
    });
    let health = await_healthy(settings, ports, active, &serving, reporter).await;
    health.map_err(|error| anyhow!("{active} is active and not healthy: {error}"))?;
    // `deployer monitor` handles a standby that is down.
    let health = await_healthy(settings, ports, active.other(), &standby, reporter).await;
    if let Err(error) = health {
        reporter.report(&Event::Note {
            text: format!("{} cannot stand in: {error}", active.other()),
        });
    }
    Ok(CommandOutput::success(format!(
        "up: {} serves {active}",
        settings.router.url
    )))
}

/// Waits until the color is healthy. The error says why it is not.
async fn await_healthy(
    settings: &Settings,
    ports: &Ports,
    color: Color,
    release: &Release,
    reporter: &dyn Reporter,
) -> Result<(), String> {
    let candidate = Candidate {
        color,
        release,
        ports,
        requests: &RequestReader::new(ports.request_log.as_deref(), reporter),
        examples: &Examples::default(),
        before: &TrafficSample::default(),
        earlier: &[],
        active_down: false,
        golden_labels: &GoldenLabels::default(),
        reporter,
    };
    let gate = Healthy::new(settings.health.clone());
    let verdict = gate.judge(&candidate).await;
    reporter.report(&Event::GateFinished {
        gate: color.name(),
        verdict: &verdict,
    });
    if verdict.lets_through() {
        Ok(())
    } else {
        Err(verdict.summary)
    }
}

/// Starts the last release of `color` unless it runs. Returns the release.
async fn start_if_stopped(
    ports: &Ports,
    settings: &Settings,
    color: Color,
    reporter: &dyn Reporter,
) -> anyhow::Result<Release> {
    let (state, held_version) = ports.fleet.inspect(Service::Server(color)).await?;
    let release = held(settings, color, held_version);
    if let ServiceState::Stopped(_) | ServiceState::Paused(_) = state {
        reporter.report(&Event::Note {
            text: format!("starting {color} with {}", release.version),
        });
        ports.fleet.start(color, &release.version).await?;
    }
    Ok(release)
}

/// The last release of `color`, or its first one.
fn held(settings: &Settings, color: Color, version: Option<String>) -> Release {
    Release {
        model: settings.release.model.clone(),
        version: version.unwrap_or_else(|| settings.color(color).version.clone()),
        digest: None,
    }
}

/// nginx answers within milliseconds unless it could not start; then its log says why.
async fn await_router(ports: &Ports, settings: &Settings) -> anyhow::Result<Color> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

    let deadline = Instant::now() + settings.router.confirm_timeout;
    loop {
        let error = match ports.router.active().await {
            Ok(active) => return Ok(active),
            Err(error) => error,
        };
        let stopped = match ports.fleet.inspect(Service::Router).await? {
            (ServiceState::Stopped(how) | ServiceState::Paused(how), _) => Some(how),
            (ServiceState::Running | ServiceState::Unmanaged, _) => None,
        };
        if stopped.is_some() || Instant::now() >= deadline {
            let how = stopped.map_or_else(String::new, |how| format!("it stopped: {how}; "));
            let log = ports.fleet.logs(Service::Router, 10).await.join("\n    ");
            return Err(anyhow!(
                "the router did not start: {how}{error}; its last log lines:\n    {log}"
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
