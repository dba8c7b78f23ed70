//! `deployer history`

use serde_json::json;

use super::{Done, Ended};
use crate::{
    config::Settings,
    history::{self, Past},
};

pub(super) fn run(settings: &Settings) -> anyhow::Result<Done> {
    let path = history::path(&settings.state);
    let read = history::read(&settings.state)
        .map_err(|error| Ended::usage(format!("cannot read {}: {error}", path.display())))?;
    let mut lines: Vec<String> = Vec::new();
    if read.past.is_empty() {
        lines.push("nothing was done yet".to_owned());
    } else {
        lines.push(format!(
            "{:<22}{:<13}{:<7}{:<14}{:>8}  {:<18} WHY",
            "WHEN", "WHAT", "COLOR", "VERSION", "TOOK", "BY"
        ));
    }
    lines.extend(read.past.iter().map(line));
    for number in &read.torn {
        lines.push(format!(
            "line {number} of {} is torn and was left out",
            path.display()
        ));
    }
    Ok(Done::fine(lines.join("\n")).telling(json!({
        "event": "history",
        "history": read.past,
        "torn_lines": read.torn,
    })))
}

fn line(past: &Past) -> String {
    let took = past
        .seconds
        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0} s"));
    let line = format!(
        "{:<22}{:<13}{:<7}{:<14}{took:>8}  {:<18} {}",
        format!("{:.0}", past.at),
        past.deed.words(),
        past.color.name(),
        past.version.as_deref().unwrap_or("-"),
        past.by,
        past.reason.as_deref().unwrap_or_default(),
    );
    line.trim_end().to_owned()
}
