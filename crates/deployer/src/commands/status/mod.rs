//! `deployer status`

mod table;

use std::{io::IsTerminal as _, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    adapters,
    color::Color,
    commands::{CommandOutput, print},
    config::Settings,
    evidence::{request::Request, sample::TrafficSample},
    ports::{Ports, Service, ServiceState, Target},
    release::Health,
    shutdown::shutdown,
    state::{
        journal::{self, Entry},
        lock_holder::{self, LockHolder},
    },
};

/// What clients received is shown for this many seconds.
const RECENT: f64 = 300.0;

/// The status; `--json` prints it as it is.
#[derive(Debug, Serialize)]
struct Status {
    router: String,
    /// The active color; `None` if the router does not say.
    active: Option<Color>,
    /// What could not be read, as sentences.
    problems: Vec<String>,
    colors: [ColorStatus; 2],
    /// Whether `deployer rollback` would work now.
    can_roll_back: bool,
    /// The holder of the lock.
    lock_holder: Option<LockHolder>,
    last_deployment: Option<Entry>,
}

/// What clients received from a color, from the router's log.
#[derive(Debug, Serialize)]
struct Clients {
    /// The time that the figures cover: less than five minutes if the part of the log that was read is shorter.
    recent_seconds: f64,
    requests: u64,
    /// Requests that this color failed, also if the other color then answered.
    failed: u64,
    /// `None` without a request.
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
    /// Whether it does not run.
    stopped: bool,
    /// Why it is not healthy, if it is not.
    reason: Option<String>,
    /// What clients received; `None` if this machine cannot read the log.
    clients: Option<Clients>,
    #[serde(flatten)]
    health: Health,
}

pub(super) async fn run(settings: &Settings, ports: &Ports) -> anyhow::Result<CommandOutput> {
    let status = read_status(settings, ports).await;
    let mut object = serde_json::to_value(&status)?;
    object["event"] = "status".into();
    Ok(CommandOutput::success(table::render(&status)).with_object(object))
}

/// `deployer status --watch`: refreshes until a stop signal.
pub(super) async fn watch(settings: &Settings, json: bool) -> anyhow::Result<CommandOutput> {
    const PAUSE: Duration = Duration::from_secs(2);
    const HOME: &str = "\x1b[H\x1b[2J";

    let live = std::io::stdout().is_terminal();
    let show = async {
        loop {
            // New ports each time, because a log returns only what is new.
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
        () = shutdown() => Ok(CommandOutput::success("")),
    }
}

async fn read_status(settings: &Settings, ports: &Ports) -> Status {
    let (active, blue, green) = tokio::join!(
        ports.router.active(),
        color_status(ports, settings, Color::Blue),
        color_status(ports, settings, Color::Green),
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
    match ports
        .request_log
        .as_ref()
        .map(|traffic| traffic.new_requests())
    {
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
        lock_holder: lock_holder::lock_holder(&settings.state),
        last_deployment,
    }
}

fn clients(color: Color, requests: &[Request]) -> Clients {
    let now = Timestamp::now().as_millisecond() as f64 / 1000.0;
    let read = requests.first().map_or(RECENT, |first| now - first.at);
    let recent = read.clamp(0.0, RECENT);
    let first = requests.partition_point(|request| request.at < now - recent);
    let sample = TrafficSample::of(color, &requests[first..]);
    let quantile = |at| (sample.waits.count() > 0).then(|| sample.waits.quantile(at).as_secs_f64());
    Clients {
        recent_seconds: recent,
        requests: sample.tally.requests,
        failed: sample.tally.failed,
        p50_seconds: quantile(0.5),
        p99_seconds: quantile(0.99),
    }
}

async fn color_status(ports: &Ports, settings: &Settings, color: Color) -> ColorStatus {
    let asked = ports.probe.health(Target::Server(color)).await;
    let mut status = ColorStatus {
        color,
        url: settings.color(color).url.clone(),
        fit: ports.router.is_fit(color),
        healthy: asked.is_ok(),
        stopped: false,
        reason: None,
        clients: None,
        health: Health::default(),
    };
    match asked {
        Ok(health) => status.health = health,
        Err(error) => {
            let state = ports.fleet.inspect(Service::Server(color)).await;
            status.stopped = matches!(state, Ok((ServiceState::Stopped(_), _)));
            status.reason = Some(match state {
                Ok((ServiceState::Stopped(how), _)) => how,
                _ => error.to_string(),
            });
        }
    }
    status
}
