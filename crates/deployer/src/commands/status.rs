//! `deployer status`

use std::fmt::Write as _;

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
    /// The color that has the traffic; none when the router does not tell, with the reason.
    active: Option<Color>,
    problem: Option<String>,
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
    let world = adapters::connect(settings, Vec::new())?;
    let (active, blue, green) = tokio::join!(
        world.router.active(),
        color_status(&world, settings, Color::Blue),
        color_status(&world, settings, Color::Green),
    );
    let (active, problem) = match active {
        Ok(active) => (Some(active), None),
        Err(error) => (None, Some(error.to_string())),
    };
    let colors = [blue, green];
    let status = Status {
        router: settings.router.url.clone(),
        can_roll_back: active.is_some_and(|active| {
            colors
                .iter()
                .any(|status| status.color != active && status.healthy && status.fit)
        }),
        active,
        problem,
        colors,
        last_deployment: journal::last_entry(&settings.state)?,
    };
    print(&if json {
        serde_json::to_string(&status)?
    } else {
        table(&status)
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

fn table(status: &Status) -> String {
    const UNKNOWN: &str = "-";

    let mut text = match (&status.active, &status.problem) {
        (Some(active), _) => format!("{} sends all traffic to {active}\n\n", status.router),
        (None, Some(problem)) => format!("where traffic goes is not known: {problem}\n\n"),
        (None, None) => String::new(),
    };
    let mut row = |cells: [&str; 8]| {
        let [
            color,
            role,
            health,
            version,
            uptime,
            requests,
            errors,
            digest,
        ] = cells;
        let line = format!(
            "{color:<7}{role:<9}{health:<11}{version:<12}{uptime:>9}{requests:>12}{errors:>9}  {digest}"
        );
        let _ = writeln!(text, "{}", line.trim_end());
    };
    row([
        "COLOR", "ROLE", "HEALTH", "VERSION", "UPTIME", "REQUESTS", "ERRORS", "DIGEST",
    ]);
    for color in &status.colors {
        let role = match (status.active, color.fit) {
            (None, _) => UNKNOWN,
            (Some(active), _) if active == color.color => "active",
            (Some(_), true) => "standby",
            (Some(_), false) => "idle",
        };
        let shown = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
        let health = &color.health;
        let error_rate = health
            .request_count
            .zip(health.error_count)
            .map(|(requests, failed)| {
                format!(
                    "{:.1} %",
                    crate::verdict::Tally { requests, failed }.error_rate() * 100.0
                )
            });
        row([
            color.color.name(),
            role,
            match (color.healthy, color.stopped) {
                (true, _) => "healthy",
                (false, true) => "stopped",
                (false, false) => "unhealthy",
            },
            &shown(health.model_version.clone()),
            &shown(
                health
                    .uptime_seconds
                    .map(|seconds| format!("{seconds:.0} s")),
            ),
            &shown(health.request_count.map(|count| count.to_string())),
            &shown(error_rate),
            &shown(
                health
                    .model_digest
                    .as_ref()
                    .map(|digest| digest.chars().take(12).collect()),
            ),
        ]);
    }
    for color in &status.colors {
        if let Some(reason) = &color.reason {
            let _ = {
                let state = if color.stopped {
                    "stopped"
                } else {
                    "unhealthy"
                };
                writeln!(
                    text,
                    "
{} is {state}: {reason}",
                    color.color
                )
            };
        }
    }
    let _ = match &status.last_deployment {
        Some(entry) => {
            let reason = entry
                .reason
                .as_deref()
                .unwrap_or("it was interrupted, or is still going on");
            writeln!(
                text,
                "\nlast deployment: {} is {} since {:.0}: {reason}",
                entry.plan.id, entry.phase, entry.since
            )
        }
        None => writeln!(text, "\nnothing was deployed yet"),
    };
    let _ = write!(
        text,
        "{}",
        if status.can_roll_back {
            "`deployer rollback` would work now"
        } else {
            "`deployer rollback` would be refused now: no healthy standby"
        }
    );
    text
}
