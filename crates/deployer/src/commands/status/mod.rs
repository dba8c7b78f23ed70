//! `deployer status`

mod table;

use serde::Serialize;

use super::print;
use crate::{
    adapters,
    color::Color,
    config::Settings,
    exit_code,
    journal::{self, Entry},
    ports::{Service, State, Target, World},
    release::Health,
};

/// Everything that is shown; `--json` prints it as it is.
#[derive(Debug, Serialize)]
struct Status {
    router: String,
    /// The color that has the traffic; none when the router does not tell.
    active: Option<Color>,
    /// What could not be found out, in words.
    problems: Vec<String>,
    colors: [ColorStatus; 2],
    /// Whether `deployer rollback` would work now.
    can_roll_back: bool,
    last_deployment: Option<Entry>,
}

#[derive(Debug, Serialize)]
struct ColorStatus {
    color: Color,
    url: String,
    /// Whether it may stand in for the other color.
    fit: bool,
    healthy: bool,
    /// Whether it does not even run.
    stopped: bool,
    /// Why it is not healthy, when it is not.
    reason: Option<String>,
    #[serde(flatten)]
    health: Health,
}

pub(super) async fn run(settings: &Settings, json: bool) -> anyhow::Result<u8> {
    let world = adapters::connect(settings)?;
    let (active, blue, green) = tokio::join!(
        world.router.active(),
        color_status(&world, settings, Color::Blue),
        color_status(&world, settings, Color::Green),
    );
    let mut problems = Vec::new();
    let active = active
        .map_err(|error| problems.push(format!("where traffic goes is not known: {error}")))
        .ok();
    let last_deployment = journal::last_entry(&settings.state)
        .map_err(|error| problems.push(error.to_string()))
        .ok()
        .flatten();
    let colors = [blue, green];
    let status = Status {
        router: settings.router.url.clone(),
        can_roll_back: active.is_some_and(|active| {
            colors
                .iter()
                .any(|status| status.color != active && status.healthy && status.fit)
        }),
        active,
        problems,
        colors,
        last_deployment,
    };
    print(&if json {
        serde_json::to_string(&status)?
    } else {
        table::render(&status)
    });
    Ok(exit_code::FINE)
}

async fn color_status(world: &World, settings: &Settings, color: Color) -> ColorStatus {
    let asked = world.probe.health(Target::Server(color)).await;
    let mut status = ColorStatus {
        color,
        url: settings.color(color).url.clone(),
        fit: world.router.is_fit(color),
        healthy: asked.is_ok(),
        stopped: false,
        reason: None,
        health: Health::default(),
    };
    match asked {
        Ok(health) => status.health = health,
        Err(error) => {
            let state = world.fleet.inspect(Service::Server(color)).await;
            status.stopped = matches!(state, Ok((State::Stopped(_), _)));
            status.reason = Some(match state {
                Ok((State::Stopped(how), _)) => how,
                _ => error.to_string(),
            });
        }
    }
    status
}
