//! `deployer up`

use anyhow::anyhow;
use tokio::time::Instant;

use super::{Done, stop_leftover_copies};
use crate::{
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    examples::Examples,
    gates::{Candidate, Gate as _, Healthy},
    ports::{Service, State, World},
    preflight,
    release::Release,
    traffic::Seen,
};

pub(super) async fn run(
    settings: &Settings,
    world: &World,
    reporter: &dyn Reporter,
) -> anyhow::Result<Done> {
    stop_leftover_copies(world, reporter);
    if let Err(full) = preflight::room(&settings.state, settings.min_free_megabytes) {
        // After a reboot everything must come up all the same.
        reporter.report(&Event::Note { text: full });
    }
    // Clients first: the standby is started when they can be served, and may be sick.
    let flagged = world.router.flagged();
    let serving = start_if_stopped(world, settings, flagged, reporter).await?;
    world.fleet.start_router().await?;
    let active = await_router(world, settings).await?;
    let standby = start_if_stopped(world, settings, active.other(), reporter).await;
    let standby = standby.unwrap_or_else(|error| {
        reporter.report(&Event::Note {
            text: format!("{} does not start: {error}", active.other()),
        });
        held(settings, active.other(), None)
    });
    for color in [active, active.other()] {
        let release = if color == active { &serving } else { &standby };
        let candidate = Candidate {
            color,
            release,
            world,
            examples: &Examples::default(),
            before: &Seen::default(),
            earlier: &[],
            active_down: false,
            reporter,
        };
        let verdict = Healthy::new(settings.health.clone())
            .judge(&candidate)
            .await;
        reporter.report(&Event::Judged {
            gate: color.name(),
            verdict: &verdict,
        });
        if verdict.lets_through() {
            continue;
        }
        // A sick standby is for `deployer watch`, which takes its fit flag and gives it back when it is
        // well; a sick active color cannot be left at that.
        if color == active {
            return Err(anyhow!(
                "{color} is active and not healthy: {}",
                verdict.summary
            ));
        }
        reporter.report(&Event::Note {
            text: format!("{color} cannot stand in: {}", verdict.summary),
        });
    }
    Ok(Done::fine(format!(
        "up: {} serves {active}",
        settings.router.url
    )))
}

/// Starts what `color` held last, unless it runs, and tells what that is.
async fn start_if_stopped(
    world: &World,
    settings: &Settings,
    color: Color,
    reporter: &dyn Reporter,
) -> anyhow::Result<Release> {
    let (state, held_version) = world.fleet.inspect(Service::Server(color)).await?;
    let release = held(settings, color, held_version);
    if let State::Stopped(_) = state {
        reporter.report(&Event::Note {
            text: format!("starting {color} with {}", release.version),
        });
        world.fleet.start(color, &release.version).await?;
    }
    Ok(release)
}

/// What `color` held last, or is to hold at first.
fn held(settings: &Settings, color: Color, version: Option<String>) -> Release {
    Release {
        model: settings.release.model.clone(),
        version: version.unwrap_or_else(|| settings.color(color).version.clone()),
        digest: None,
    }
}

/// nginx answers within milliseconds, unless it could not start; then its log says why.
async fn await_router(world: &World, settings: &Settings) -> anyhow::Result<Color> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

    let deadline = Instant::now() + settings.router.confirm_timeout;
    loop {
        let error = match world.router.active().await {
            Ok(active) => return Ok(active),
            Err(error) => error,
        };
        let stopped = match world.fleet.inspect(Service::Router).await? {
            (State::Stopped(how), _) => Some(how),
            (State::Running | State::Unmanaged, _) => None,
        };
        if stopped.is_some() || Instant::now() >= deadline {
            let how = stopped.map_or_else(String::new, |how| format!("it stopped: {how}; "));
            let log = world.fleet.logs(Service::Router, 10).await.join("\n    ");
            return Err(anyhow!(
                "the router did not start: {how}{error}; its last log lines:\n    {log}"
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
