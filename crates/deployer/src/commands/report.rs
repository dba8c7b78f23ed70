//! `deployer report [ID]`

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

use super::{Ended, print};
use crate::{
    config::Settings,
    exit_code,
    report::{Record, Reports},
};

pub(super) async fn run(
    settings: &Settings,
    id: Option<&str>,
    open: bool,
    json: bool,
) -> anyhow::Result<u8> {
    let reports = Reports::of(&settings.state);
    let record = reports.read(id).map_err(Ended::usage)?;
    let page = reports.page(&record.plan.id);
    // The page is made of the data, so that it is never older than this deployer.
    reports.write(&record).map_err(Ended::usage)?;
    if json {
        print(&serde_json::to_string_pretty(&record)?);
    } else {
        print(&words(&record));
        print(&format!("\n{}", page.display()));
    }
    if open {
        show(&page).await?;
    }
    Ok(exit_code::FINE)
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
