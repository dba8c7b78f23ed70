//! `deployer recover`

use crate::{
    commands::{CommandError, CommandOutput, deploy, stop_leftover_shadow},
    config::{OnInterrupt, Settings},
    deployment::{
        phase::Phase,
        recover::{self, Recovery},
        rollout::Rollout,
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    examples::Examples,
    ports::Ports,
    report::{Recorder, Reporters, Reports},
    shutdown::shutdown,
    state::journal::{Entry, Journal},
};

/// Completes or undoes what a killed deployer left.
pub(super) async fn run(
    settings: &Settings,
    journal: &Journal,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let reports = Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &Reporters(vec![terminal, &recorder]);
    stop_leftover_shadow(ports, reporter);
    let pending = journal.pending_move();
    if let Some(pending) = &pending {
        let traffic_mover = TrafficMover {
            ports,
            journal,
            reporter,
        };
        traffic_mover
            .resume(true)
            .await
            .map_err(CommandError::halted)?;
        if journal.last()?.is_none_or(|last| last.phase.is_end()) {
            return Ok(CommandOutput::success(format!(
                "recovered: {}",
                pending.words()
            )));
        }
    }
    let Some(last) = journal.last()? else {
        return Ok(CommandOutput::success(
            "nothing to recover: nothing was deployed yet",
        ));
    };
    if last.phase.is_end() {
        let (id, phase) = (&last.plan.id, last.phase);
        return Ok(CommandOutput::success(format!(
            "nothing to recover: deployment {id} is {phase}"
        )));
    }
    // Without the router, it is unknown where traffic goes.
    ports.router.active().await.map_err(CommandError::halted)?;
    if continues(settings, ports, &last).await {
        let Entry {
            plan, phase, since, ..
        } = &last;
        let (phase, since) = (*phase, *since);
        reporter.report(&Event::Resumed { plan, phase, since });
        let examples = Examples::read(settings).map_err(CommandError::usage)?;
        let outcome = Rollout {
            settings,
            plan,
            active_down: false,
            examples: &examples,
            ports,
            journal,
            reporter,
        }
        .resume(shutdown)
        .await;
        return Ok(deploy::done(&outcome, plan, &reports, &recorder, terminal));
    }
    if let Recovery::Halted(reason) = recover::recover(ports, journal, reporter).await? {
        return Err(CommandError::halted(reason));
    }
    let phase = journal.last()?.map_or(last.phase, |entry| entry.phase);
    Ok(CommandOutput::success(format!(
        "recovered: deployment {} is {phase}",
        last.plan.id
    )))
}

/// Returns whether the bake continues: the candidate has the traffic, was not promoted, and the settings say
/// so.
async fn continues(settings: &Settings, ports: &Ports, last: &Entry) -> bool {
    settings.bake.on_interrupt == OnInterrupt::Continue
        && last.phase == Phase::Switched
        && ports.router.active().await.ok() == Some(last.plan.idle)
        && !ports.router.is_fit(last.plan.idle)
}
