//! `deployer report [ID]`

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::{Done, Ended};
use crate::{
    config::Settings,
    report::{Record, Reports},
};

pub(super) async fn run(settings: &Settings, id: Option<&str>, open: bool) -> anyhow::Result<Done> {
    let reports = Reports::of(&settings.state);
    let record = reports.read(id).map_err(Ended::usage)?;
    let page = reports.page(&record.plan.id);
    // The page is made of the data, so that it is never older than this deployer. The data itself is for
    // who holds the lock to write.
    reports.write_page(&record).map_err(Ended::usage)?;
    if open {
        show(&page).await?;
    }
    let mut object = serde_json::to_value(&record)?;
    object["event"] = "report".into();
    let text = format!("{}\n\n{}", words(&record), page.display());
    Ok(Done::fine(text).telling(object))
}

/// The report in lines.
fn words(record: &Record) -> String {
    let mut lines = vec![record.headline()];
    for judged in &record.gates {
        lines.push(format!(
            "  {:<12} {}: {}",
            judged.gate, judged.finding, judged.summary
        ));
        let warnings = judged.warnings.iter();
        lines.extend(warnings.map(|warning| format!("  {:<12} warning: {warning}", "")));
    }
    lines.join("\n")
}

/// Hands the page to the desktop's browser.
async fn show(page: &Path) -> anyhow::Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const OPENER: &str = "xdg-open";

    let cannot = |problem: String| {
        Ended::usage(format!(
            "cannot open {} with {OPENER}: {problem}",
            page.display()
        ))
    };
    let opened = Command::new(OPENER).arg(page).stdin(Stdio::null()).status();
    // A browser that was not running yet may stay the opener's child: that is fine.
    match timeout(PATIENCE, opened).await {
        Ok(Ok(status)) if !status.success() => Err(cannot(status.to_string())),
        Ok(Err(error)) => Err(cannot(error.to_string())),
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}
