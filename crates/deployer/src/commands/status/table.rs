//! The status as a table.

use std::fmt::Write as _;

use crate::{
    color::Color,
    commands::status::reading::{Clients, ColorStatus, Status},
    deployment::phase::Phase,
    evidence::{latency::milliseconds, tally::Tally},
    ports::RouterStatus,
    state::approval::Waiting,
};

/// Shown for unknown values.
const UNKNOWN: &str = "-";

const HEADINGS: [&str; 11] = [
    "COLOR", "ROLE", "FIT", "HEALTH", "VERSION", "UPTIME", "REQUESTS", "ERRORS", "P50", "P99",
    "DIGEST",
];

pub(super) fn render(status: &Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write_status(&mut text, status);
    text
}

fn write_status(text: &mut String, status: &Status) -> std::fmt::Result {
    if let Some(active) = status.active {
        writeln!(text, "{} sends all traffic to {active}\n", status.router)?;
    }
    for problem in &status.problems {
        writeln!(text, "{problem}\n")?;
    }
    write_row(text, &HEADINGS)?;
    for color in &status.colors {
        let cells = cells(color, status.active);
        write_row(text, &cells.each_ref().map(String::as_str))?;
    }
    write_routers(text, &status.routers)?;
    if let Some(clients) = status.colors[0].clients.as_ref() {
        writeln!(
            text,
            "\nrequests, errors and latency: what clients saw in the last {:.0} s, by the router",
            clients.recent_seconds
        )?;
    }
    for color in &status.colors {
        write_endings(text, color)?;
    }
    for color in &status.colors {
        if let Some(reason) = &color.reason {
            writeln!(
                text,
                "\n{} is {}: {reason}",
                color.color,
                health_in_a_word(color)
            )?;
        }
    }
    if let Some(holder) = &status.lock_holder {
        writeln!(text, "\nrunning: {holder}")?;
    }
    let under_way = match status.lock_holder {
        Some(_) => "it has not ended",
        None => "it was interrupted: `deployer recover` completes or undoes it",
    };
    if let Some(pending) = &status.traffic_move {
        writeln!(text, "\n{pending}: {under_way}")?;
    }
    match &status.last_deployment {
        Some(entry) => {
            let reason = entry.reason.as_deref().unwrap_or(under_way);
            writeln!(
                text,
                "\nlast deployment: {} is {} since {:.0}: {reason}",
                entry.plan.id, entry.phase, entry.since
            )?;
        }
        None => writeln!(text, "\nnothing was deployed yet")?,
    }
    write_waiting(text, status)?;
    let last = status.last_deployment.as_ref();
    let answer = if status.can_roll_back {
        "would work now"
    } else if last.is_some_and(|last| last.phase == Phase::RolledBack) {
        "would be refused now: the last deployment is rolled back already; with a version it goes back further"
    } else {
        "would be refused now: no healthy standby"
    };
    write!(text, "`deployer rollback` {answer}")
}

/// Writes a table of several routers.
fn write_routers(text: &mut String, routers: &[RouterStatus]) -> std::fmt::Result {
    if routers.is_empty() {
        return Ok(());
    }
    writeln!(
        text,
        "\n{:<20}{:<12}{:<8}{:<8}{:>9}",
        "ROUTER", "GENERATION", "OPEN", "ACTIVE", "IN FLIGHT"
    )?;
    let unknown = || UNKNOWN.to_owned();
    for router in routers {
        let generation = router.generation.map_or_else(unknown, |it| it.to_string());
        let open = router
            .open
            .map_or(UNKNOWN, |open| if open { "yes" } else { "no" });
        let active = router.active.map_or_else(unknown, |it| it.to_string());
        let in_flight = router.in_flight.map_or_else(unknown, |it| it.to_string());
        writeln!(
            text,
            "{:<20}{generation:<12}{open:<8}{active:<8}{in_flight:>9}",
            router.name
        )?;
    }
    for router in routers {
        if let Some(problem) = &router.problem {
            writeln!(text, "\nrouter {}: {problem}", router.name)?;
        }
    }
    Ok(())
}

/// Writes what waits for approval.
fn write_waiting(text: &mut String, status: &Status) -> std::fmt::Result {
    if let Some(last) = &status.last_deployment
        && let Some(waiting) = &last.waiting
    {
        let id = &last.plan.id;
        let Waiting {
            before,
            evidence,
            since,
            expires,
        } = waiting;
        writeln!(
            text,
            "\nit waits for approval before {before} since {since:.0}, until {expires:.0}; evidence {evidence}\n`deployer approve {id} --reason TEXT` lets it go on, `deployer reject {id} --reason TEXT` ends it"
        )?;
    }
    Ok(())
}

/// Writes how the requests of clients and of the deployer ended for a color that had any.
fn write_endings(text: &mut String, color: &ColorStatus) -> std::fmt::Result {
    let clients = color.clients.as_ref().map(|clients| &clients.endings);
    for (endings, whose) in [
        (clients, "clients' requests"),
        (color.own_endings.as_ref(), "the deployer's own requests"),
    ] {
        if let Some(endings) = endings.filter(|endings| !endings.is_empty()) {
            writeln!(text, "{}: {whose}: {endings}", color.color)?;
        }
    }
    Ok(())
}

fn write_row(
    text: &mut String,
    [
        color,
        role,
        fit,
        health,
        version,
        uptime,
        requests,
        errors,
        p50,
        p99,
        digest,
    ]: &[&str; 11],
) -> std::fmt::Result {
    let line = format!(
        "{color:<7}{role:<9}{fit:<5}{health:<11}{version:<14}{uptime:>9}{requests:>12}{errors:>9}{p50:>10}{p99:>10}  {digest}"
    );
    writeln!(text, "{}", line.trim_end())
}

fn cells(color: &ColorStatus, active: Option<Color>) -> [String; 11] {
    let role = match (active, color.fit) {
        (Some(active), _) if active == color.color => "active",
        (Some(_), Some(true)) => "standby",
        (Some(_), Some(false)) => "idle",
        (Some(_), None) | (None, _) => UNKNOWN,
    };
    let shown = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    let health = &color.health;
    // The servers' own counters include gates and own requests.
    let tally = color.clients.as_ref().map(|clients| Tally {
        requests: clients.requests,
        failed: clients.failed,
    });
    let latency =
        |quantile: fn(&Clients) -> Option<f64>| quantile(color.clients.as_ref()?).map(milliseconds);
    [
        color.color.to_string(),
        role.to_owned(),
        match color.fit {
            Some(true) => "yes",
            Some(false) => "no",
            None => UNKNOWN,
        }
        .to_owned(),
        health_in_a_word(color).to_owned(),
        shown(health.model_version.clone()),
        shown(
            health
                .uptime_seconds
                .map(|seconds| format!("{seconds:.0} s")),
        ),
        shown(tally.map(|tally| tally.requests.to_string())),
        shown(tally.map(|tally| format!("{:.1} %", tally.error_rate() * 100.0))),
        shown(latency(|clients| clients.p50_seconds)),
        shown(latency(|clients| clients.p99_seconds)),
        shown(
            health
                .model_digest
                .as_ref()
                .map(|digest| digest.chars().take(12).collect()),
        ),
    ]
}

fn health_in_a_word(color: &ColorStatus) -> &'static str {
    match (color.healthy, color.stopped) {
        (true, _) => "healthy",
        (false, true) => "stopped",
        (false, false) => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        evidence::{ending_counts::EndingCounts, request::Ending},
        release::Health,
    };

    fn counts(answered: u64, failed: u64) -> EndingCounts {
        let mut counts = EndingCounts::default();
        (0..answered).for_each(|_| counts.count(Ending::Answered));
        (0..failed).for_each(|_| counts.count(Ending::Failed));
        counts
    }

    fn color(color: Color, fit: bool, requests: u64, failed: u64) -> ColorStatus {
        ColorStatus {
            color,
            url: "http://127.0.0.1:8081".to_owned(),
            fit: Some(fit),
            healthy: true,
            stopped: false,
            reason: None,
            clients: Some(Clients {
                recent_seconds: 120.4,
                requests,
                failed,
                endings: counts(requests - failed, failed),
                p50_seconds: (requests > 0).then_some(0.0021),
                p99_seconds: (requests > 0).then_some(0.0345),
            }),
            own_endings: Some(counts(requests / 100, 0)),
            health: Health {
                model_version: Some("v1".to_owned()),
                request_count: Some(9_999),
                error_count: Some(9_999),
                uptime_seconds: Some(61.5),
                ..Health::default()
            },
        }
    }

    #[test]
    fn status_counts_clients_from_the_router_log() {
        let status = Status {
            router: "http://127.0.0.1:8080".to_owned(),
            active: Some(Color::Blue),
            problems: Vec::new(),
            colors: [
                color(Color::Blue, false, 400, 2),
                color(Color::Green, true, 0, 0),
            ],
            routers: Vec::new(),
            can_roll_back: true,
            lock_holder: None,
            last_deployment: None,
            traffic_move: None,
        };
        let text = render(&status);
        let row = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let words = line.unwrap_or_default().split_whitespace();
            words.map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            row("blue"),
            "blue active no healthy v1 62 s 400 0.5 % 2.10 ms 34.5 ms -"
        );
        assert_eq!(
            row("green"),
            "green standby yes healthy v1 62 s 0 0.0 % - - -"
        );
        assert!(
            text.contains(
                "in the last 120 s, by the router\n\
                 blue: clients' requests: 398 answered, 2 failed\n\
                 blue: the deployer's own requests: 4 answered\n\n"
            ),
            "{text}"
        );
        assert!(!text.contains("green: "), "{text}");
        assert!(
            text.contains("`deployer rollback` would work now"),
            "{text}"
        );
    }
}
