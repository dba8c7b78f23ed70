//! `deployer up`

use anyhow::anyhow;
use tokio::time::Instant;

use super::Done;
use crate::{
    adapters,
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    examples::Examples,
    gates::{Candidate, Gate as _, Healthy},
    ports::{Service, State, World},
    release::Release,
    traffic::Seen,
};

pub(super) async fn run(settings: &Settings, reporter: &dyn Reporter) -> anyhow::Result<Done> {
    let world = adapters::connect(settings)?;
    let [blue, green] =
        Color::BOTH.map(|color| start_if_stopped(&world, settings, color, reporter));
    let (blue, green) = (blue.await?, green.await?);
    world.fleet.start_router().await?;
    let active = await_router(&world, settings).await?;
    for color in [active, active.other()] {
        let release = match color {
            Color::Blue => &blue,
            Color::Green => &green,
        };
        let candidate = Candidate {
            color,
            release,
            world: &world,
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
        // A sick standby must not stand in; a sick active color cannot be left at that.
        world.router.set_fit(color, false)?;
        if color == active {
            return Err(anyhow!(
                "{color} is active and not healthy: {}",
                verdict.summary
            ));
        }
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
    let (state, held) = world.fleet.inspect(Service::Server(color)).await?;
    let version = held.unwrap_or_else(|| settings.color(color).version.clone());
    if let State::Stopped(_) = state {
        reporter.report(&Event::Note {
            text: format!("starting {color} with {version}"),
        });
        world.fleet.start(color, &version).await?;
    }
    Ok(Release {
        model: settings.release.model.clone(),
        version,
        digest: None,
    })
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
