//! `deployer history`

use serde_json::json;

use crate::{
    adapters::StateDirectory,
    commands::output::CommandOutput,
    config::Settings,
    exit_code,
    ports::Ports,
    state::{history::HistoryEntry, history_chain::Verification},
};

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
    let outside = past
        .outside_window
        .as_ref()
        .map_or_else(String::new, |reason| {
            format!(" (outside of the windows: {reason})")
        });
    let line = format!(
        "{:<22}{:<13}{:<7}{:<14}{took:>8}  {:<18} {}{outside}",
        format!("{:.0}", past.at),
        past.action.as_str(),
        past.color.name(),
        past.version.as_deref().unwrap_or("-"),
        past.by,
        past.reason.as_deref().unwrap_or_default(),
    );
    line.trim_end().to_owned()
}

/// Checks the chain of the history. `wanted` is a hash that some line must have; an empty one is none.
pub(super) fn verify(settings: &Settings, wanted: &str) -> anyhow::Result<CommandOutput> {
    let wanted = Some(wanted).filter(|wanted| !wanted.is_empty());
    let state = StateDirectory::new(&settings.state);
    let verification = state.verify_history(wanted)?;
    let code = if verification.breaks.is_empty() {
        exit_code::FINE
    } else {
        exit_code::UNEXPECTED
    };
    let mut object = json!(verification);
    object["event"] = json!("history_verified");
    object["intact"] = json!(verification.breaks.is_empty());
    Ok(CommandOutput::with(code, describe(&verification)).with_object(object))
}

fn describe(verification: &Verification) -> String {
    let Verification {
        lines,
        before_chain,
        torn,
        breaks,
        newest,
    } = verification;
    let mut text = Vec::new();
    if breaks.is_empty() {
        text.push(format!("intact: {lines} lines"));
    } else {
        text.push("NOT INTACT: history.jsonl in the state directory was changed".to_owned());
        text.extend(breaks.iter().map(ToString::to_string));
    }
    text.extend(torn.iter().map(|line| {
        format!(
            "line {line} is torn, as after a full disk or a power cut; the chain goes on after it"
        )
    }));
    if *before_chain > 0 {
        text.push(format!(
            "lines 1 to {before_chain} are from before the chain began; only the last of them is checked"
        ));
    }
    text.extend(
        newest
            .as_ref()
            .map(|newest| format!("the newest line has the SHA-256 {newest}")),
    );
    text.join("\n")
}
