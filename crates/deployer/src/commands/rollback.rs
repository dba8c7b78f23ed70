//! `deployer rollback [VERSION]`

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use crate::{
    color::Color,
    commands::{
        deploy::{self, ToDeploy},
        lock::lock_within,
        output::{CommandError, CommandOutput},
        steps::{end_leftovers, give_back_release, recover, served_version},
        stop::{Stopped, describe_end, stop_deployment},
    },
    config::Settings,
    deployment::{
        phase::Phase, previous::fit_previous, recover::Recovery, scope::Scope,
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    exit_code,
    ports::{JournalError, OnSilentRouter, Ports},
    report::Reports,
    state::{
        action::Action,
        journal::Journal,
        journal_entries::JournalEntries,
        lock_holder::LockHolder,
        operator_request::{OperatorCommand, OperatorRequest},
    },
};

/// How long a rollback waits for a command that moves traffic itself.
const MAX_WAIT_FOR_MOVE: Duration = Duration::from_secs(3);
/// How long a rollback without the lock waits for a deployer that does not answer, to record what it did.
const MAX_WAIT_FOR_STUCK: Duration = Duration::from_secs(5);
/// The same if the holder of the lock has no unfinished deployment: it cleans up, or is another command.
const MAX_WAIT_FOR_OTHER: Duration = Duration::from_mins(1);

/// Moves traffic back to the previous release. A deployment that is under way is ended first.
pub(super) async fn run(
    settings: &Settings,
    reason: Option<String>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let holder = ports.lock.holder().await;
    let holder = match holder.filter(|holder| !holder.moves_traffic()) {
        Some(holder) => holder,
        // A command that moves traffic has it for a moment.
        None => match lock_within(ports, "rollback", MAX_WAIT_FOR_MOVE, async |_| true).await {
            Ok(journal) => {
                let reason = reason.as_deref();
                return run_with_lock(settings, reason, &journal, ports, reporter).await;
            }
            Err(JournalError::Busy {
                holder: Some(holder),
            }) => *holder,
            Err(error) => return Err(explain_failure(settings, error)),
        },
    };
    let request = OperatorRequest::new(OperatorCommand::Rollback, Timestamp::now(), reason);
    let stopped = stop_deployment(&request, settings, ports, &holder, reporter).await;
    let reason = request.reason.as_deref();
    match stopped {
        Stopped::Ended(entry) => describe_end(ports, &entry).await,
        Stopped::Free(journal) => run_with_lock(settings, reason, &journal, ports, reporter).await,
        // A rollback names no deployment, so only a damaged answer declines it.
        Stopped::Declined { reason } => Err(CommandError::refused(reason)),
        Stopped::Unresponsive { was_sent } => {
            run_without_lock(settings, reason, ports, &holder, was_sent, reporter).await
        }
    }
}

/// Brings the clients back to `version`, which was promoted earlier: at once if the idle color holds it, and otherwise
/// by a deployment that compares it with nothing, because the active release is the bad one. `locked` is the journal, or
/// why its lock is not held.
pub(super) async fn run_to_version(
    settings: &Settings,
    version: &str,
    reason: Option<&str>,
    locked: Result<Journal<'_>, JournalError>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let journal = &locked.map_err(|error| explain_failure(settings, error))?;
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
        return move_to(settings, previous, reason, journal, ports, reporter).await;
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
    let release = ToDeploy {
        version,
        scope: Scope::Alone,
        reason: reason.map(|_| by_hand(reason)),
    };
    deploy::run(settings, release, journal, ports, reporter).await
}

/// Rolls back although `holder` has the lock and does not answer. When it goes on, it finds the request to stop before
/// it does anything else, and never moves the traffic again.
async fn run_without_lock(
    settings: &Settings,
    reason: Option<&str>,
    ports: &Ports,
    holder: &LockHolder,
    was_sent: bool,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let entries = ports.journal.read().await.unwrap_or_default();
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let to = match entries.unfinished_deployment() {
        Some(entry) if active == entry.plan.active && !was_sent => {
            return Err(CommandError::with(
                exit_code::BUSY,
                format!(
                    "traffic had not moved: {active} has it. {holder} does not answer, and may move it: end it by `kill -9 {}`, then `deployer recover`",
                    holder.pid
                ),
            ));
        }
        Some(entry) if active == entry.plan.active => {
            return Ok(CommandOutput::success(format!(
                "traffic had not moved: {active} has it. {holder} does not answer; when it goes on, it refuses its candidate"
            )));
        }
        Some(entry) => entry.plan.active,
        None => fit_previous(ports, &entries, active)
            .await
            .map_err(CommandError::refused)?,
    };
    let version = healthy_version(ports, to, active).await?;
    let unfit = ports.flags.set_fit(active, false).await;
    let switched = ports.router.switch_to(to, OnSilentRouter::MoveOthers).await;
    let switched = switched.map_err(CommandError::halted)?;
    reporter.report(&Event::TrafficMoved {
        from: active,
        to,
        unconfirmed: &switched.unconfirmed,
    });
    unfit.map_err(CommandError::halted)?;
    let is_stuck = entries.unfinished_deployment().is_some();
    let recorded = record_later(settings, reason, ports, (active, to), is_stuck, reporter).await;
    let recorded = match recorded {
        Ok(()) => String::new(),
        Err(error) if is_stuck => format!(
            "; this is not recorded, because {holder} has the lock and does not answer ({error}): end it by `kill -9 {}`, then `deployer recover`",
            holder.pid
        ),
        Err(error) => {
            format!("; the history does not have it, because {holder} has the lock ({error})")
        }
    };
    Ok(CommandOutput::success(format!(
        "rolled back: {to} serves {version}{recorded}"
    )))
}

/// Records a rollback that was done without the lock, as soon as the lock is free.
async fn record_later(
    settings: &Settings,
    reason: Option<&str>,
    ports: &Ports,
    (from, to): (Color, Color),
    is_stuck: bool,
    reporter: &dyn Reporter,
) -> anyhow::Result<()> {
    let max_wait = if is_stuck {
        MAX_WAIT_FOR_STUCK
    } else {
        MAX_WAIT_FOR_OTHER
    };
    // A deployer that goes on finds the traffic back, and records that itself.
    let is_recorded = async || {
        let entries = ports.journal.read().await.unwrap_or_default();
        entries.is_rolled_back_to(to)
    };
    let locked = lock_within(ports, "rollback", max_wait, async |_| !is_recorded().await).await;
    if is_recorded().await {
        return Ok(());
    }
    let journal = locked?;
    let entries = journal.read().await?;
    if entries.unfinished_deployment().is_some() {
        recover(settings, ports, &journal, reporter).await?;
        return Ok(());
    }
    let traffic_mover = TrafficMover {
        ports,
        journal: &journal,
        reports: &Reports::of(&settings.state),
        reporter,
    };
    traffic_mover
        .record_rollback(from, to, &by_hand(reason))
        .await;
    Ok(())
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
    reason: Option<&str>,
    journal: &Journal<'_>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    end_leftovers(ports, reporter).await;
    ports.router.active().await.map_err(CommandError::refused)?;
    // A rollback must not wait for an unreadable journal.
    let entries = journal.read().await.unwrap_or_else(|error| {
        let text = error.to_string();
        reporter.report(&Event::Note { text });
        JournalEntries::default()
    });
    if entries.unfinished_deployment().is_some() || entries.traffic_move.is_some() {
        match recover(settings, ports, journal, reporter).await? {
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
            Recovery::Fine => {
                // A proven candidate was promoted, and is what this rolls back.
                if let Some(ended) = journal.read().await.unwrap_or_default().deployment
                    && ended.phase == Phase::Refused
                    && entries.unfinished_deployment().is_some()
                {
                    return describe_end(ports, &ended).await;
                }
            }
        }
    }
    let entries = journal.read().await.unwrap_or_default();
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let previous = fit_previous(ports, &entries, active)
        .await
        .map_err(CommandError::refused)?;
    move_to(settings, previous, reason, journal, ports, reporter).await
}

/// The reason of a rollback for the history.
fn by_hand(reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("by hand: {reason}"),
        None => "by hand".to_owned(),
    }
}

/// Moves traffic to `previous`, which is fit.
async fn move_to(
    settings: &Settings,
    previous: Color,
    reason: Option<&str>,
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
    let reason = by_hand(reason);
    let moved = traffic_mover.move_and_clean_up(Action::RolledBack, active, previous, &reason);
    moved.await.map_err(CommandError::halted)?;
    give_back_release(settings, ports, journal, None, reporter).await;
    Ok(CommandOutput::success(format!(
        "rolled back: {previous} serves {version}"
    )))
}

/// Adds to a busy error how to move traffic without waiting.
fn explain_failure(settings: &Settings, error: JournalError) -> anyhow::Error {
    match error {
        JournalError::Busy { ref holder } => {
            let interrupted = if holder.as_ref().is_some_and(|it| it.is_monitor()) {
                "On SIGTERM it releases the lock at once"
            } else {
                "Interrupted (Ctrl-C, SIGTERM), it rolls back by itself"
            };
            let by_hand = if settings.routers.are_used() {
                String::new()
            } else {
                let flag = settings.router.flags.join("green");
                let flag = flag.display();
                format!(
                    "; without any deployer, blue gets all traffic by `rm -f {flag}`, green by `touch {flag}`"
                )
            };
            CommandError::with(exit_code::BUSY, format!("{error}. {interrupted}{by_hand}"))
        }
        other => other.into(),
    }
}
