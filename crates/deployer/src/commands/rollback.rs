//! `deployer rollback`

use crate::{
    commands::{
        output::{CommandError, CommandOutput},
        steps::{served_version, stop_leftover_shadow},
    },
    config::Settings,
    deployment::{
        recover::{self, Recovery},
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    exit_code,
    ports::{JournalError, Ports},
    report::{Recorder, Reporters, Reports},
    state::{action::Action, journal::Journal, journal_entries::JournalEntries},
};

pub(super) async fn run(
    settings: &Settings,
    journal: &Journal<'_>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let reports = &Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    stop_leftover_shadow(ports, reporter).await;
    ports.router.active().await.map_err(CommandError::refused)?;
    // A rollback must not wait for an unreadable journal.
    let entries = journal.read().await.unwrap_or_else(|error| {
        let text = error.to_string();
        reporter.report(&Event::Note { text });
        JournalEntries::default()
    });
    if entries.unfinished_deployment().is_some() || entries.traffic_move.is_some() {
        let reporter = &Reporters(vec![reporter, &recorder]);
        match recover::recover(ports, journal, reports, reporter).await? {
            Recovery::Halted(reason) => return Err(CommandError::halted(reason)),
            // The recovery was the rollback.
            Recovery::RolledBack(color) => {
                let version = served_version(ports, color)
                    .await
                    .unwrap_or_else(|error| error);
                return Ok(CommandOutput::success(format!(
                    "rolled back: {color} serves {version}"
                )));
            }
            Recovery::Fine => {}
        }
    }
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let previous = active.other();
    let fit = ports.flags.is_fit(previous).await;
    if !fit.map_err(CommandError::refused)? {
        return Err(CommandError::refused(format!(
            "nothing to roll back to: {previous} holds no release that was promoted; `deployer switch {previous}` moves traffic to it without this check"
        )));
    }
    let version = served_version(ports, previous).await.map_err(|error| {
        CommandError::refused(format!(
            "{previous} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    let traffic_mover = TrafficMover {
        ports,
        journal,
        reports,
        reporter,
    };
    let moved = traffic_mover.move_and_clean_up(Action::RolledBack, active, previous, "by hand");
    moved.await.map_err(CommandError::halted)?;
    Ok(CommandOutput::success(format!(
        "rolled back: {previous} serves {version}"
    )))
}

/// Adds to a busy error how to move traffic without waiting.
pub(super) fn explain_failure(settings: &Settings, error: JournalError) -> anyhow::Error {
    match error {
        JournalError::Busy { ref holder } => {
            let interrupted = if holder.as_ref().is_some_and(|it| it.is_monitor()) {
                "On SIGTERM it releases the lock at once"
            } else {
                "Interrupted (Ctrl-C, SIGTERM), it rolls back by itself"
            };
            let flag = settings.router.flags.join("green");
            let flag = flag.display();
            CommandError::with(
                exit_code::BUSY,
                format!(
                    "{error}. {interrupted}; without any deployer, blue gets all traffic by `rm -f {flag}`, green by `touch {flag}`"
                ),
            )
        }
        other => other.into(),
    }
}
