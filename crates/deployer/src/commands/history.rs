//! `deployer history`

use serde_json::json;

use crate::{
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    state::history::{self, HistoryEntry},
};

pub(super) fn run(settings: &Settings) -> anyhow::Result<CommandOutput> {
    let path = history::path(&settings.state);
    let read = history::read(&settings.state)
        .map_err(|error| CommandError::usage(format!("cannot read {}: {error}", path.display())))?;
    let mut lines: Vec<String> = Vec::new();
    if read.entries.is_empty() {
        lines.push("no action yet".to_owned());
    } else {
        lines.push(format!(
            "{:<22}{:<13}{:<7}{:<14}{:>8}  {:<18} WHY",
            "WHEN", "WHAT", "COLOR", "VERSION", "TOOK", "BY"
        ));
    }
    lines.extend(read.entries.iter().map(line));
    for number in &read.torn {
        lines.push(format!(
            "line {number} of {} is torn and was skipped",
            path.display()
        ));
    }
    Ok(CommandOutput::success(lines.join("\n")).with_object(json!({
        "event": "history",
        "history": read.entries,
        "torn_lines": read.torn,
    })))
}

fn line(past: &HistoryEntry) -> String {
    let took = past
        .seconds
        .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.0} s"));
    let line = format!(
        "{:<22}{:<13}{:<7}{:<14}{took:>8}  {:<18} {}",
        format!("{:.0}", past.at),
        past.action.words(),
        past.color.name(),
        past.version.as_deref().unwrap_or("-"),
        past.by,
        past.reason.as_deref().unwrap_or_default(),
    );
    line.trim_end().to_owned()
}
