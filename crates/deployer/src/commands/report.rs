//! `deployer report [ID]`

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use crate::{
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    report::{Record, Reports},
};

pub(super) async fn run(
    settings: &Settings,
    id: Option<&str>,
    open: bool,
) -> anyhow::Result<CommandOutput> {
    let reports = Reports::of(&settings.state);
    let record = reports.read(id).map_err(CommandError::usage)?;
    let page = reports.page(&record.plan.id);
    // The page is made again from the data, so that it matches this deployer. Only the holder of the lock
    // writes the data.
    reports.write_page(&record).map_err(CommandError::usage)?;
    if open {
        show(&page).await?;
    }
    let mut object = serde_json::to_value(&record)?;
    object["event"] = "report".into();
    let text = format!("{}\n\n{}", words(&record), page.display());
    Ok(CommandOutput::success(text).with_object(object))
}

/// Formats the report as lines.
fn words(record: &Record) -> String {
    let mut lines = vec![record.headline()];
    for gate in &record.gates {
        lines.push(format!(
            "  {:<12} {}: {}",
            gate.gate, gate.verdict, gate.summary
        ));
        let warnings = gate.warnings.iter();
        lines.extend(warnings.map(|warning| format!("  {:<12} warning: {warning}", "")));
    }
    lines.join("\n")
}

/// Opens the page in the desktop's browser.
async fn show(page: &Path) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const OPENER: &str = "xdg-open";

    let cannot = |problem: String| {
        CommandError::usage(format!(
            "cannot open {} with {OPENER}: {problem}",
            page.display()
        ))
    };
    let opened = Command::new(OPENER).arg(page).stdin(Stdio::null()).status();
    // The browser may be the opener's child and stay open.
    match timeout(PATIENCE, opened).await {
        Ok(Ok(status)) if !status.success() => Err(cannot(status.to_string())),
        Ok(Err(error)) => Err(cannot(error.to_string())),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
