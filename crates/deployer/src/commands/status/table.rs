//! The status as a table for people.

use std::fmt::Write as _;

use super::{Clients, ColorStatus, Status};
use crate::{color::Color, latency::milliseconds, verdict::Tally};

/// Shown where nothing is known.
const UNKNOWN: &str = "-";

const HEADINGS: [&str; 10] = [
    "COLOR", "ROLE", "HEALTH", "VERSION", "UPTIME", "REQUESTS", "ERRORS", "P50", "P99", "DIGEST",
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
    if let Some(holder) = &status.at_work {
        writeln!(text, "\nat work: {holder}")?;
    }
    match &status.last_deployment {
        Some(entry) => {
            let under_way = match status.at_work {
                Some(_) => "it is going on",
                None => "it was interrupted: `deployer recover` brings it to an end",
            };
            let reason = entry.reason.as_deref().unwrap_or(under_way);
            writeln!(
                text,
                "\nlast deployment: {} is {} since {:.0}: {reason}",
                entry.plan.id, entry.phase, entry.since
            )?;
        }
        None => writeln!(text, "\nnothing was deployed yet")?,
    }
    let answer = if status.can_roll_back {
        "would work now"
    } else {
        "would be refused now: no healthy standby"
    };
    write!(text, "`deployer rollback` {answer}")
}

fn write_row(
    text: &mut String,
    [
        color,
        role,
        health,
        version,
        uptime,
        requests,
        errors,
        p50,
        p99,
        digest,
    ]: &[&str; 10],
) -> std::fmt::Result {
    let line = format!(
        "{color:<7}{role:<9}{health:<11}{version:<14}{uptime:>9}{requests:>12}{errors:>9}{p50:>10}{p99:>10}  {digest}"
    );
    writeln!(text, "{}", line.trim_end())
}

fn cells(color: &ColorStatus, active: Option<Color>) -> [String; 10] {
    let role = match (active, color.fit) {
        (None, _) => UNKNOWN,
        (Some(active), _) if active == color.color => "active",
        (Some(_), true) => "standby",
        (Some(_), false) => "idle",
    };
    let shown = |value: Option<String>| value.unwrap_or_else(|| UNKNOWN.to_owned());
    let health = &color.health;
    let tally = health
        .request_count
        .zip(health.error_count)
        .map(|(requests, failed)| Tally { requests, failed });
    let latency =
        |quantile: fn(&Clients) -> Option<f64>| quantile(color.clients.as_ref()?).map(milliseconds);
    [
        color.color.to_string(),
        role.to_owned(),
        health_in_a_word(color).to_owned(),
        shown(health.model_version.clone()),
        shown(
            health
                .uptime_seconds
                .map(|seconds| format!("{seconds:.0} s")),
        ),
        shown(health.request_count.map(|count| count.to_string())),
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
