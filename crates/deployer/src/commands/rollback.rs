//! `deployer rollback [VERSION]`

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    color::Color,
    commands::{
        deploy,
        lock::{MAX_WAIT_FOR_MONITOR, lock},
        output::{CommandError, CommandOutput},
        steps::{served_version, stop_leftover_shadow},
        stop::{Stopped, describe_end, stop_deployment},
    },
    config::Settings,
    deployment::{
        recover::{self, Recovery},
        restore::restore_release,
        rollout::Scope,
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    exit_code,
    ports::{JournalError, Ports},
    report::{Recorder, Reporters, Reports},
    state::{
        action::Action, journal::Journal, journal_entries::JournalEntries, lock_holder::LockHolder,
        stop_request::StopCommand,
    },
};

/// How long a rollback without the lock waits for it, to record what it did.
const MAX_WAIT_TO_RECORD: Duration = Duration::from_secs(5);

/// Moves traffic back to the previous release. A deployment that is under way is ended first.
pub(super) async fn run(
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let holder = ports.lock.holder().await;
    let Some(holder) = holder.filter(|holder| !holder.moves_traffic_at_once()) else {
        let journal = lock(ports, "rollback", MAX_WAIT_FOR_MONITOR, reporter).await;
        let journal = journal.map_err(|error| explain_failure(settings, error))?;
        return run_with_lock(settings, &journal, ports, reporter).await;
    };
    match stop_deployment(StopCommand::Rollback, settings, ports, &holder, reporter).await {
        Stopped::Ended(entry) => describe_end(ports, &entry).await,
        Stopped::Free(journal) => run_with_lock(settings, &journal, ports, reporter).await,
        Stopped::Unresponsive => run_without_lock(settings, ports, &holder, reporter).await,
    }
}

/// Brings the clients back to `version`, which was promoted earlier: at once if the idle color holds it, and otherwise
/// by a deployment that compares it with nothing, because the active release is the bad one.
pub(super) async fn run_to_version(
    settings: &Settings,
    version: &str,
    journal: &Journal<'_>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    if served_version(ports, active).await.as_deref() == Ok(version) {
        return Ok(CommandOutput::success(format!(
            "{active} serves {version} already"
        )));
    }
    let previous = active.other();
    if ports.flags.is_fit(previous).await == Ok(true)
        && served_version(ports, previous).await.as_deref() == Ok(version)
    {
        return move_to(settings, previous, journal, ports, reporter).await;
    }
    let history = journal.history().await?;
    let promoted = history
        .iter()
        .filter(|entry| entry.action == Action::Promoted)
        .filter_map(|entry| entry.version.as_deref());
    let promoted: BTreeSet<&str> = promoted.collect();
    if !promoted.contains(version) {
        let versions: Vec<&str> = promoted.into_iter().collect();
        return Err(CommandError::refused(format!(
            "{version:?} was never promoted, so it is nothing to roll back to; promoted were: {}",
            versions.join(", ")
        )));
    }
    let version = Some(version.to_owned());
    deploy::run(settings, version, Scope::Alone, journal, ports, reporter).await
}

/// Rolls back although `holder` has the lock and does not answer. When it goes on, it finds the request to stop before
/// it does anything else, and never moves the traffic again.
async fn run_without_lock(
    settings: &Settings,
    ports: &Ports,
    holder: &LockHolder,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let entries = ports.journal.read().await.unwrap_or_default();
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let to = match entries.unfinished_deployment() {
        Some(entry) if active == entry.plan.active => {
            return Ok(CommandOutput::success(format!(
                "traffic had not moved: {active} has it. {holder} does not answer; when it goes on, it refuses its candidate"
            )));
        }
        Some(entry) => entry.plan.active,
        None => fit_previous(ports, &entries, active).await?,
    };
    let version = healthy_version(ports, to, active).await?;
    let unfit = ports.flags.set_fit(active, false).await;
    let switched = ports.router.switch_to(to).await;
    switched.map_err(CommandError::halted)?;
    reporter.report(&Event::TrafficMoved { from: active, to });
    unfit.map_err(CommandError::halted)?;
    let recorded = record_later(settings, ports, active, to, reporter).await;
    let recorded = match recorded {
        Ok(()) => String::new(),
        Err(error) => format!(
            "; this is not recorded, because {holder} has the lock and does not answer ({error}): end it by `kill -9 {}`, then `deployer recover`",
            holder.pid
        ),
    };
    Ok(CommandOutput::success(format!(
        "rolled back: {to} serves {version}{recorded}"
    )))
}

/// Records a rollback that was done without the lock, as soon as the lock is free.
async fn record_later(
    settings: &Settings,
    ports: &Ports,
    from: Color,
    to: Color,
    reporter: &dyn Reporter,
) -> anyhow::Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);

    let began = Instant::now();
    let journal = loop {
        match Journal::lock(ports, "rollback").await {
            Err(JournalError::Busy { .. }) if began.elapsed() < MAX_WAIT_TO_RECORD => {
                sleep(PAUSE).await;
            }
            locked => break locked?,
        }
    };
    let reports = &Reports::of(&settings.state);
    if journal.read().await?.unfinished_deployment().is_some() {
        let recorder = Recorder::new(reports.clone());
        let reporter = &Reporters(vec![reporter, &recorder]);
        recover::recover(ports, &journal, reports, reporter).await?;
        return Ok(());
    }
    let traffic_mover = TrafficMover {
        ports,
        journal: &journal,
        reports,
        reporter,
    };
    traffic_mover.record_rollback(from, to, "by hand").await;
    Ok(())
}

/// The other color than `active`, if it holds a release that was promoted.
async fn fit_previous(
    ports: &Ports,
    entries: &JournalEntries,
    active: Color,
) -> anyhow::Result<Color> {
    let previous = active.other();
    if let Some(last) = &entries.deployment
        && entries.is_rolled_back_to(active)
    {
        let version = served_version(ports, previous).await;
        return Err(CommandError::refused(format!(
            "deployment {} is rolled back already, and {active} serves what it served before; `deployer rollback {}` goes back further",
            last.plan.id,
            version.as_deref().unwrap_or("VERSION")
        )));
    }
    let fit = ports.flags.is_fit(previous).await;
    if fit.map_err(CommandError::refused)? {
        return Ok(previous);
    }
    Err(CommandError::refused(format!(
        "nothing to roll back to: {previous} holds no release that was promoted; `deployer switch {previous}` moves traffic to it without this check"
    )))
}

/// The version that `color` serves. Fails if it is not healthy, so that traffic stays on `active`.
async fn healthy_version(ports: &Ports, color: Color, active: Color) -> anyhow::Result<String> {
    served_version(ports, color).await.map_err(|error| {
        CommandError::refused(format!(
            "{color} is not healthy, so traffic stays on {active}: {error}"
        ))
    })
}

/// Rolls back with the lock held.
pub(super) async fn run_with_lock(
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
                restore_release(&settings.health, ports, journal, reporter).await;
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
    let previous = fit_previous(ports, &entries, active).await?;
    move_to(settings, previous, journal, ports, reporter).await
}

/// Moves traffic to `previous`, which is fit.
async fn move_to(
    settings: &Settings,
    previous: Color,
    journal: &Journal<'_>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let active = previous.other();
    let reports = &Reports::of(&settings.state);
    let version = healthy_version(ports, previous, active).await?;
    let traffic_mover = TrafficMover {
        ports,
        journal,
        reports,
        reporter,
    };
    let moved = traffic_mover.move_and_clean_up(Action::RolledBack, active, previous, "by hand");
    moved.await.map_err(CommandError::halted)?;
    restore_release(&settings.health, ports, journal, reporter).await;
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
