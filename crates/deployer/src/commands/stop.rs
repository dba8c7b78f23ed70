//! How `rollback`, `abort`, and `reject` end a deployment that is under way.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    commands::{
        output::{CommandError, CommandOutput},
        steps::served_version,
    },
    config::Settings,
    deployment::phase::Phase,
    event::{Event, Reporter},
    ports::Ports,
    state::{
        journal::Journal,
        journal_entries::DeploymentEntry,
        lock_holder::LockHolder,
        operator_request::{Answer, OperatorRequest, OperatorRequests},
    },
};

/// How long the deployer at work may take to accept a request. One that does not is stuck, or does something that cannot
/// be stopped.
const MAX_WAIT_FOR_ANSWER: Duration = Duration::from_millis(500);
/// How long it may take from there to the end of its deployment: it asks the previous color three times.
const MAX_WAIT_FOR_END: Duration = Duration::from_secs(15);
const PAUSE: Duration = Duration::from_millis(20);

/// What became of a deployment after a request to stop it.
pub(super) enum Stopped<'a> {
    /// It ended without a promotion.
    Ended(Box<DeploymentEntry>),
    /// The deployer at work ended, and this command has the lock now.
    Free(Journal<'a>),
    /// The deployer at work does not end its deployment.
    Declined { reason: String },
    /// The deployer at work does not answer. If the request `was_sent`, it finds it when it goes on.
    Unresponsive { was_sent: bool },
}

/// Asks `holder` to end its deployment, and waits for the end.
pub(super) async fn stop_deployment<'a>(
    request: &OperatorRequest,
    settings: &Settings,
    ports: &'a Ports,
    holder: &LockHolder,
    reporter: &dyn Reporter,
) -> Stopped<'a> {
    let requests = OperatorRequests::of(&settings.state);
    reporter.report(&Event::Note {
        text: format!("asking {holder} to stop"),
    });
    let sent = requests.send(request);
    let was_sent = sent.is_ok() && holder.deploys();
    if let Err(error) = sent {
        // A full disk must not prevent a rollback.
        let text = format!("cannot send a request to stop: {error}");
        reporter.report(&Event::Note { text });
    }
    let began = Instant::now();
    loop {
        if let Some(ended) = ended_deployment(ports, holder).await {
            return Stopped::Ended(Box::new(ended));
        }
        if ports.lock.holder().await.is_none()
            && let Ok(journal) = Journal::lock(ports, request.command.as_str()).await
        {
            // Nothing is left that could accept it.
            let _ = requests.open();
            return match ended_deployment(ports, holder).await {
                Some(ended) => Stopped::Ended(Box::new(ended)),
                None => Stopped::Free(journal),
            };
        }
        let max_wait = match requests.answer(request) {
            Some(Answer::Accepted) => MAX_WAIT_FOR_END,
            Some(Answer::Declined { reason }) => return Stopped::Declined { reason },
            None => MAX_WAIT_FOR_ANSWER,
        };
        if began.elapsed() >= max_wait {
            return Stopped::Unresponsive { was_sent };
        }
        sleep(PAUSE).await;
    }
}

/// The deployment of `holder`, if it ended without a promotion.
async fn ended_deployment(ports: &Ports, holder: &LockHolder) -> Option<DeploymentEntry> {
    let entry = ports.journal.read().await.ok()?.deployment?;
    let ended = matches!(
        entry.phase,
        Phase::Refused | Phase::RolledBack | Phase::Halted
    );
    (ended && entry.since >= holder.since).then_some(entry)
}

/// Says how a stopped deployment ended.
pub(super) async fn describe_end(
    ports: &Ports,
    entry: &DeploymentEntry,
) -> anyhow::Result<CommandOutput> {
    let reason = entry.reason.as_deref().unwrap_or_default();
    let id = &entry.plan.id;
    if entry.phase == Phase::Halted {
        return Err(CommandError::halted(format!(
            "deployment {id} is halted: {reason}"
        )));
    }
    let active = ports.router.active().await.map_err(CommandError::halted)?;
    let version = served_version(ports, active).await;
    let version = version.unwrap_or_else(|error| error);
    let moved = if entry.phase == Phase::Refused {
        "; traffic had not moved"
    } else {
        ""
    };
    Ok(CommandOutput::success(format!(
        "{}: {active} serves {version}{moved} (deployment {id})",
        entry.phase
    )))
}
