//! What interrupted or earlier deployments left, and whether the promoted files are still there.

use crate::{
    adapters::StateDirectory,
    color::Color,
    config::Settings,
    doctor::finding::Finding,
    ports::{JournalError, Ports},
    promoted::Differences,
};

pub(crate) async fn leftovers(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    let mut findings = Vec::new();
    let holder = ports.lock.holder().await;
    let is_free = holder.is_none();
    match ports.journal.read().await {
        Ok(entries) => {
            findings.push(match (&entries.deployment, holder) {
                (Some(last), Some(holder)) if !last.phase.is_end() => {
                    Finding::fine("deployment", format!("running: {holder}"))
                }
                (Some(last), None) if !last.phase.is_end() => Finding::wrong(
                    "deployment",
                    format!("{} was interrupted; last seen {}", last.plan.id, last.phase),
                    "`deployer recover` completes or undoes it",
                ),
                (Some(last), _) => Finding::fine(
                    "deployment",
                    format!("the last one, {}, is {}", last.plan.id, last.phase),
                ),
                (None, _) => Finding::fine("deployment", "none yet"),
            });
            if let Some(pending) = entries.traffic_move.filter(|_| is_free) {
                findings.push(Finding::wrong(
                    "deployment",
                    format!("{pending} was interrupted"),
                    "`deployer recover` completes or undoes it",
                ));
            }
        }
        Err(error) => {
            let advice = match error {
                JournalError::Damaged { .. } => "remove the file when traffic goes where it shall",
                JournalError::Storage { .. } | JournalError::Busy { .. } => {
                    "see who may read that file"
                }
            };
            findings.push(Finding::wrong("deployment", error.to_string(), advice));
        }
    }
    if is_free && ports.flags.is_shadow().await == Ok(true) {
        findings.push(Finding::wrong(
            "shadow",
            "client requests are copied to the idle color, and no deployer is running that needs the copies",
            "`deployer recover` ends it",
        ));
    }
    for color in Color::BOTH {
        let differences = Differences::find(settings, ports, color, None).await;
        findings.extend(differences.files.map(|text| {
            Finding::wrong(
                "release",
                text,
                "restore its files, or deploy that version again",
            )
        }));
    }
    findings.extend(history(settings));
    findings
}

/// Checks the chain of the history. A torn line breaks nothing.
fn history(settings: &Settings) -> Option<Finding> {
    match StateDirectory::new(&settings.state).verify_history(None) {
        Ok(verification) => {
            let breaks = verification.breaks.iter().map(ToString::to_string);
            let breaks: Vec<String> = breaks.collect();
            (!breaks.is_empty()).then(|| {
                Finding::wrong(
                    "history",
                    format!("history.jsonl was changed: {}", breaks.join("; ")),
                    "compare it with the reports and the notifications; `deployer history --verify` shows all",
                )
            })
        }
        Err(error) => Some(Finding::wrong(
            "history",
            error.to_string(),
            "see who may read that file",
        )),
    }
}
