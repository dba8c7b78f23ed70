//! `deployer recover`

use super::{Done, Ended, deploy, stop_leftover_copies, told_to_stop};
use crate::{
    config::{OnInterrupt, Settings},
    event::{Event, Reporter},
    examples::Examples,
    journal::{Entry, Journal},
    phase::Phase,
    ports::World,
    recover::{self, Settled},
    report::{All, Recorder, Reports},
    rollout::Rollout,
    transfer::Transfer,
};

/// Brings a deployment to an end whose deployer was killed.
pub(super) async fn run(
    settings: &Settings,
    journal: &Journal,
    world: &World,
    terminal: &dyn Reporter,
) -> anyhow::Result<Done> {
    let reports = Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &All(vec![terminal, &recorder]);
    stop_leftover_copies(world, reporter);
    let intent = journal.intent();
    if let Some(intent) = &intent {
        let transfer = Transfer {
            world,
            journal,
            reporter,
        };
        transfer.finish(true).await.map_err(Ended::halted)?;
        if journal.last()?.is_none_or(|last| last.phase.is_end()) {
            return Ok(Done::fine(format!("recovered: {}", intent.words())));
        }
    }
    let Some(last) = journal.last()? else {
        return Ok(Done::fine("nothing to recover: nothing was deployed yet"));
    };
    if last.phase.is_end() {
        let (id, phase) = (&last.plan.id, last.phase);
        return Ok(Done::fine(format!(
            "nothing to recover: deployment {id} is {phase}"
        )));
    }
    // Without the router nobody knows where traffic goes.
    world.router.active().await.map_err(Ended::halted)?;
    if goes_on(settings, world, &last).await {
        let Entry {
            plan, phase, since, ..
        } = &last;
        let (phase, since) = (*phase, *since);
        reporter.report(&Event::Resumed { plan, phase, since });
        let examples = Examples::read(settings).map_err(Ended::usage)?;
        let outcome = Rollout {
            settings,
            plan,
            active_down: false,
            examples: &examples,
            world,
            journal,
            reporter,
        }
        .resume(told_to_stop)
        .await;
        return Ok(deploy::done(&outcome, plan, &reports, &recorder, terminal));
    }
    if let Settled::Halted(reason) = recover::settle(world, journal, reporter).await? {
        return Err(Ended::halted(reason));
    }
    let phase = journal.last()?.map_or(last.phase, |entry| entry.phase);
    Ok(Done::fine(format!(
        "recovered: deployment {} is {phase}",
        last.plan.id
    )))
}

/// Whether the candidate has the traffic, was not proven yet, and may keep it until it is.
async fn goes_on(settings: &Settings, world: &World, last: &Entry) -> bool {
    settings.watch.on_interrupt == OnInterrupt::Continue
        && last.phase == Phase::Switched
        && world.router.active().await.ok() == Some(last.plan.idle)
        && !world.router.is_fit(last.plan.idle)
}
