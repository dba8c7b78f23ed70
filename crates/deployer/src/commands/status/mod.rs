//! `deployer status`

mod table;

use std::{io::IsTerminal as _, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{Done, print, told_to_stop};
use crate::{
    adapters,
    color::Color,
    config::Settings,
    holder::Holder,
    journal::{self, Entry},
    ports::{Service, State, Target, World},
    release::Health,
    traffic::{Request, Seen},
};

/// What clients saw is told of the last so many seconds.
const LATELY: f64 = 300.0;

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
    /// Who is deploying right now.
    at_work: Option<Holder>,
    last_deployment: Option<Entry>,
}

/// What clients saw of a color, by the router's log.
#[derive(Debug, Serialize)]
struct Clients {
    /// Of the last so many seconds: fewer than five minutes where the end of the log that was read
    /// does not reach so far back.
    lately_seconds: f64,
    requests: u64,
    /// Those that this color failed, also when the other one answered in its place.
    failed: u64,
    /// None without a request.
    p50_seconds: Option<f64>,
    p99_seconds: Option<f64>,
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
    /// What clients saw; none where the log cannot be read here.
    clients: Option<Clients>,
    #[serde(flatten)]
    health: Health,
}

pub(super) async fn run(settings: &Settings, world: &World) -> anyhow::Result<Done> {
    let status = look(settings, world).await;
    let mut object = serde_json::to_value(&status)?;
    object["event"] = "status".into();
    Ok(Done::fine(table::render(&status)).telling(object))
}

/// `deployer status --watch`: until somebody has seen enough.
pub(super) async fn keep_showing(settings: &Settings, json: bool) -> anyhow::Result<Done> {
    const PAUSE: Duration = Duration::from_secs(2);
    const HOME: &str = "\x1b[H\x1b[2J";

    let live = std::io::stdout().is_terminal();
    let show = async {
        loop {
            // Ports of its own each time: a log that was read before shows only what is new.
            let done = run(settings, &adapters::connect(settings)?).await?;
            if json {
                print(&done.object.to_string());
            } else {
                let home = if live { HOME } else { "" };
                print(&format!("{home}{:.0}\n\n{}\n", Timestamp::now(), done.text));
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        shown = show => shown,
        () = told_to_stop() => Ok(Done::fine("")),
    }
}

async fn look(settings: &Settings, world: &World) -> Status {
    let (active, blue, green) = tokio::join!(
        world.router.active(),
        color_status(world, settings, Color::Blue),
        color_status(world, settings, Color::Green),
    );
    let mut problems = Vec::new();
    let active = active
        .map_err(|error| problems.push(format!("where traffic goes is not known: {error}")))
        .ok();
    let last_deployment = journal::last_entry(&settings.state)
        .map_err(|error| problems.push(error.to_string()))
        .ok()
        .flatten();
    let mut colors = [blue, green];
    match world.traffic.as_ref().map(|traffic| traffic.new_requests()) {
        Some(Ok(requests)) => {
            for status in &mut colors {
                status.clients = Some(clients(status.color, &requests));
            }
        }
        Some(Err(error)) => problems.push(error.to_string()),
        None => {}
    }
    Status {
        router: settings.router.url.clone(),
        can_roll_back: active.is_some_and(|active| {
            colors
                .iter()
                .any(|status| status.color != active && status.healthy && status.fit)
        }),
        active,
        problems,
        colors,
        at_work: journal::at_work(&settings.state),
        last_deployment,
    }
}

fn clients(color: Color, requests: &[Request]) -> Clients {
    let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
    let read = requests.first().map_or(LATELY, |first| now - first.at);
    let lately = read.clamp(0.0, LATELY);
    let first = requests.partition_point(|request| request.at < now - lately);
    let seen = Seen::of(color, &requests[first..]);
    let quantile = |at| (seen.waits.count() > 0).then(|| seen.waits.quantile(at).as_secs_f64());
    Clients {
        lately_seconds: lately,
        requests: seen.tally.requests,
        failed: seen.tally.failed,
        p50_seconds: quantile(0.5),
        p99_seconds: quantile(0.99),
    }
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
        clients: None,
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
