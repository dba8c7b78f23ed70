//! `deployer history`

use serde_json::json;

use crate::{commands::output::CommandOutput, ports::Ports, state::history::HistoryEntry};

pub(super) async fn run(ports: &Ports) -> anyhow::Result<CommandOutput> {
    let read = ports.journal.read_history().await?;
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
            "line {number} of history.jsonl in the state directory is torn and was skipped"
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
        past.action.as_str(),
        past.color.name(),
        past.version.as_deref().unwrap_or("-"),
        past.by,
        past.reason.as_deref().unwrap_or_default(),
    );
    line.trim_end().to_owned()
}
