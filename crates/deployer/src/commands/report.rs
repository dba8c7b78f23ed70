//! `deployer report [ID]`

use crate::{
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    report::{Record, Reports},
};

pub(super) fn run(settings: &Settings, id: Option<&str>) -> anyhow::Result<CommandOutput> {
    let reports = Reports::of(&settings.state);
    let record = reports.read(id).map_err(CommandError::usage)?;
    let page = reports.page(&record.plan.id);
    // The page is made again from the data, so that it matches this deployer. Only the holder of the lock
    // writes the data.
    reports.write_page(&record).map_err(CommandError::usage)?;
    let mut object = serde_json::to_value(&record)?;
    object["event"] = "report".into();
    let text = format!("{}\n\n{}", lines(&record), page.display());
    Ok(CommandOutput::success(text).with_object(object))
}

/// Formats the report as lines.
fn lines(record: &Record) -> String {
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
