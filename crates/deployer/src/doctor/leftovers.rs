//! What interrupted or earlier deployments left.

use crate::{
    config::Settings,
    doctor::finding::Finding,
    state::{history, journal, lock_holder, traffic_move},
};

pub(crate) fn leftovers(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.push(match journal::last_entry(&settings.state) {
        Ok(Some(last)) if !last.phase.is_end() => match lock_holder::lock_holder(&settings.state) {
            Some(holder) => Finding::fine("deployment", format!("going on: {holder}")),
            None => Finding::wrong(
                "deployment",
                format!("{} was interrupted; last seen {}", last.plan.id, last.phase),
                "`deployer recover` brings it to an end",
            ),
        },
        Ok(Some(last)) => Finding::fine(
            "deployment",
            format!("the last one, {}, is {}", last.plan.id, last.phase),
        ),
        Ok(None) => Finding::fine("deployment", "none yet"),
        Err(error) => Finding::wrong(
            "deployment",
            error.to_string(),
            "see where traffic goes with `deployer status`, then remove that file",
        ),
    });
    let lock_holder = lock_holder::lock_holder(&settings.state).is_some();
    if let Some(pending) = traffic_move::read(&settings.state).filter(|_| !lock_holder) {
        findings.push(Finding::wrong(
            "deployment",
            format!("{} was interrupted", pending.words()),
            "`deployer recover` brings it to an end",
        ));
    }
    if !lock_holder && settings.router.flags.join("shadow").exists() {
        findings.push(Finding::wrong(
            "shadow",
            "client requests are copied to the idle color, and no deployer is running that needs the copies",
            "`deployer recover` ends it",
        ));
    }
    match history::read(&settings.state) {
        Ok(read) if read.torn.is_empty() => {}
        Ok(read) => findings.push(Finding::wrong(
            "history",
            format!(
                "lines {:?} of {} are torn",
                read.torn,
                history::path(&settings.state).display()
            ),
            "remove them; nothing else depends on them",
        )),
        Err(error) => findings.push(Finding::wrong(
            "history",
            format!("{}: {error}", history::path(&settings.state).display()),
            "see who may read that file",
        )),
    }
    findings
}
