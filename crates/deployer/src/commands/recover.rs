//! `deployer recover`

use crate::{
    commands::{CommandError, CommandOutput, deploy, end_leftovers, steps::give_back_release},
    config::{OnInterrupt, Settings},
    deployment::{
        decisions::Decisions,
        phase::Phase,
        recover::{self, Recovery},
        rollout::Rollout,
        scope::Scope,
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    examples::Examples,
    ports::Ports,
    report::{Recorder, Reporters, Reports},
    request_reader::RequestReader,
    shutdown::stopped,
    state::{journal::Journal, journal_entries::DeploymentEntry},
};

/// Completes or undoes what a killed deployer left.
pub(super) async fn run(
    settings: &Settings,
    journal: &Journal<'_>,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let reports = Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &Reporters(vec![terminal, &recorder]);
    end_leftovers(ports, reporter).await;
    let completed = resume_move(journal, ports, &reports, reporter).await?;
    let last = match (journal.read().await?.deployment, completed) {
        (Some(last), _) if !last.phase.is_end() => last,
        (last, completed) => {
            // A rollback by the monitor's page cannot start the release that the color held before.
            give_back_release(settings, ports, journal, None, reporter).await;
            let text = match (completed, last) {
                (Some(completed), _) => completed,
                (None, None) => "nothing to recover: nothing was deployed yet".to_owned(),
                (None, Some(last)) => format!(
                    "nothing to recover: deployment {} is {}",
                    last.plan.id, last.phase
                ),
            };
            return Ok(CommandOutput::success(text));
        }
    };
    // Without the router, it is unknown where traffic goes.
    ports.router.active().await.map_err(CommandError::halted)?;
    if continues(settings, ports, &last).await {
        return resume_bake(settings, journal, ports, terminal, &last, &recorder).await;
    }
    if let Recovery::Halted(reason) = recover::recover(ports, journal, &reports, reporter).await? {
        return Err(CommandError::halted(reason));
    }
    give_back_release(settings, ports, journal, None, reporter).await;
    let ended = journal.read().await?.deployment;
    let phase = ended.map_or(last.phase, |entry| entry.phase);
    Ok(CommandOutput::success(format!(
        "recovered: deployment {} is {phase}",
        last.plan.id
    )))
}

/// Completes or undoes a move of traffic that a killed command left. Returns the result to print; `None` if
/// there was no move.
async fn resume_move(
    journal: &Journal<'_>,
    ports: &Ports,
    reports: &Reports,
    reporter: &dyn Reporter,
) -> anyhow::Result<Option<String>> {
    let Some(pending) = journal.read().await?.traffic_move else {
        return Ok(None);
    };
    let traffic_mover = TrafficMover {
        ports,
        journal,
        reports,
        reporter,
    };
    let resumed = traffic_mover.resume(true).await;
    resumed.map_err(CommandError::halted)?;
    Ok(Some(format!("recovered: {pending}")))
}

/// Starts the bake of the last deployment again.
async fn resume_bake(
    settings: &Settings,
    journal: &Journal<'_>,
    ports: &Ports,
    terminal: &dyn Reporter,
    last: &DeploymentEntry,
    recorder: &Recorder,
) -> anyhow::Result<CommandOutput> {
    let reporter = &Reporters(vec![terminal, recorder]);
    let DeploymentEntry {
        ref plan,
        phase,
        since,
        ..
    } = *last;
    reporter.report(&Event::Resumed { plan, phase, since });
    let operator_requests = deploy::open_operator_requests(settings, reporter);
    let own_requests = operator_requests.for_deployment(&plan.id);
    let examples = Examples::read(settings).map_err(CommandError::usage)?;
    let rollout = Rollout {
        settings,
        plan,
        scope: Scope::Compared,
        examples: &examples,
        ports,
        requests: RequestReader::new(ports.request_log.as_deref(), reporter),
        journal,
        decisions: Decisions::about(&plan.id, &settings.state),
        reporter,
    };
    let outcome = rollout.resume(|| stopped(&own_requests)).await;
    give_back_release(settings, ports, journal, None, reporter).await;
    let reports = Reports::of(&settings.state);
    Ok(deploy::done(&outcome, plan, &reports, recorder, terminal))
}

/// Returns whether the bake continues: the candidate has the traffic, was not promoted, and the settings say
/// so.
async fn continues(settings: &Settings, ports: &Ports, last: &DeploymentEntry) -> bool {
    settings.bake.on_interrupt == OnInterrupt::Continue
        && last.phase == Phase::Switched
        && ports.router.active().await.ok() == Some(last.plan.idle)
        && ports.flags.is_fit(last.plan.idle).await == Ok(false)
}
