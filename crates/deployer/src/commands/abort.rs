//! `deployer abort`

use crate::{
    commands::{
        lock::{MAX_WAIT_FOR_MONITOR, lock},
        output::{CommandError, CommandOutput},
        stop::{Stopped, describe_end, stop_deployment},
    },
    config::Settings,
    deployment::{
        recover::{self, Recovery},
        restore::restore_release,
    },
    event::Reporter,
    exit_code,
    ports::Ports,
    report::{Recorder, Reporters, Reports},
    state::{journal::Journal, lock_holder::LockHolder, stop_request::StopCommand},
};

pub(super) async fn run(
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let holder = ports.lock.holder().await;
    let Some(holder) = holder.filter(LockHolder::deploys) else {
        let journal = lock(ports, "abort", MAX_WAIT_FOR_MONITOR, reporter).await?;
        return end_interrupted(settings, &journal, ports, reporter).await;
    };
    match stop_deployment(StopCommand::Abort, settings, ports, &holder, reporter).await {
        Stopped::Ended(entry) => describe_end(ports, &entry).await,
        Stopped::Free(journal) => end_interrupted(settings, &journal, ports, reporter).await,
        Stopped::Unresponsive => Err(CommandError::with(
            exit_code::BUSY,
            format!(
                "{holder} does not answer. It stops when it goes on; `deployer rollback` moves traffic without it"
            ),
        )),
    }
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
    let reports = &Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &Reporters(vec![reporter, &recorder]);
    if let Recovery::Halted(reason) = recover::recover(ports, journal, reports, reporter).await? {
        return Err(CommandError::halted(reason));
    }
    restore_release(&settings.health, ports, journal, reporter).await;
    match journal.read().await?.deployment {
        Some(entry) => describe_end(ports, &entry).await,
        None => Ok(CommandOutput::success("aborted")),
    }
}
