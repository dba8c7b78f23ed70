//! `deployer abort`

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    commands::{
        lock::{lock, lock_within},
        output::{CommandError, CommandOutput},
        steps::recover,
        stop::{Stopped, describe_end, stop_deployment},
    },
    config::Settings,
    deployment::{phase::Phase, recover::Recovery},
    event::{Event, Reporter},
    exit_code,
    ports::Ports,
    state::{
        journal::Journal,
        lock_holder::LockHolder,
        operator_request::{OperatorCommand, OperatorRequest},
    },
};

/// Ends the deployment `id`, or the one that is under way.
pub(super) async fn run(
    settings: &Settings,
    id: Option<String>,
    reason: Option<String>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    if let Some(id) = &id {
        let entries = ports.journal.read().await?;
        let under_way = entries.unfinished_deployment();
        if under_way.is_none_or(|entry| entry.plan.id != *id) {
            return Err(CommandError::refused(format!(
                "deployment {id} is not under way"
            )));
        }
    }
    let holder = ports.lock.holder().await;
    let Some(holder) = holder.filter(LockHolder::deploys) else {
        let journal = lock(ports, "abort", reporter).await?;
        return end_interrupted(settings, &journal, ports, reporter).await;
    };
    let request = OperatorRequest {
        deployment: id,
        ..OperatorRequest::new(OperatorCommand::Abort, Timestamp::now(), reason)
    };
    stop(settings, request, &holder, ports, reporter).await
}

/// Asks the deployer `holder` to end its deployment, and waits until it has cleaned up.
pub(super) async fn stop(
    settings: &Settings,
    request: OperatorRequest,
    holder: &LockHolder,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    match stop_deployment(&request, settings, ports, holder, reporter).await {
        Stopped::Ended(entry) => {
            // The next deployment needs the lock.
            await_free_lock(ports, reporter).await;
            describe_end(ports, &entry).await
        }
        Stopped::Free(journal) => end_interrupted(settings, &journal, ports, reporter).await,
        Stopped::Declined { reason } => Err(CommandError::refused(reason)),
        Stopped::Unresponsive { .. } if is_promoted(ports).await => Err(CommandError::refused(
            "the deployment is promoted already; `deployer rollback` undoes it",
        )),
        Stopped::Unresponsive { .. } => Err(CommandError::with(
            exit_code::BUSY,
            format!(
                "{holder} does not answer. It stops when it goes on; `deployer rollback` moves traffic without it"
            ),
        )),
    }
}

/// Whether the last deployment promoted its release.
async fn is_promoted(ports: &Ports) -> bool {
    let entries = ports.journal.read().await.unwrap_or_default();
    entries
        .deployment
        .is_some_and(|last| last.phase == Phase::Promoted)
}

/// Waits until the deployer that was asked to stop has cleaned up.
async fn await_free_lock(ports: &Ports, reporter: &dyn Reporter) {
    const MAX_WAIT: Duration = Duration::from_mins(2);

    let mut announced = false;
    let locked = lock_within(ports, "abort", MAX_WAIT, async |holder| {
        if let Some(holder) = holder
            && !std::mem::replace(&mut announced, true)
        {
            let text = format!("waiting for {holder}, which cleans up");
            reporter.report(&Event::Note { text });
        }
        true
    });
    drop(locked.await);
}

/// Ends a deployment whose deployer was killed, if there is one.
async fn end_interrupted(
    settings: &Settings,
    journal: &Journal<'_>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let unfinished = journal.read().await?.unfinished_deployment().is_some();
    if !unfinished {
        return Ok(CommandOutput::success(
            "nothing to abort: no deployment is under way",
        ));
    }
    if let Recovery::Halted(reason) = recover(settings, ports, journal, reporter).await? {
        return Err(CommandError::halted(reason));
    }
    match journal.read().await?.deployment {
        Some(entry) => describe_end(ports, &entry).await,
        None => Ok(CommandOutput::success("aborted")),
    }
}
