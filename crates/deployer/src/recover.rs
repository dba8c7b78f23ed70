//! What is done about a deployment whose deployer died in the middle of it.

use crate::{
    event::{Event, Reporter},
    journal::{Entry, Journal},
    phase::Phase,
    ports::World,
    rollout::give_back,
};

/// Brings an unfinished deployment to an end, if there is one, before anything else is begun.
///
/// A candidate that has traffic was not watched to the end, so it loses it.
pub async fn settle(
    world: &World,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<()> {
    let Some(Entry {
        plan, phase, since, ..
    }) = journal.last()?
    else {
        return Ok(());
    };
    if phase.is_end() {
        return Ok(());
    }
    reporter.report(&Event::Note {
        text: format!(
            "deployment {} was interrupted; it was last seen {phase}, {since:.0}",
            plan.id
        ),
    });
    let back = world.router.active().await? == plan.active;
    let (end, reason) = match (back, phase) {
        (true, Phase::Switched) => (
            Phase::RolledBack,
            format!(
                "the deployer was interrupted; traffic is back on {}",
                plan.active
            ),
        ),
        (true, _) => (
            Phase::Refused,
            "the deployer was interrupted; traffic never moved".to_owned(),
        ),
        (false, _) => match give_back(world, &plan).await {
            Ok(()) => (
                Phase::RolledBack,
                "the deployer was interrupted before the candidate was proven".to_owned(),
            ),
            Err(obstacle) => (
                Phase::Halted,
                format!("the deployer was interrupted; {obstacle}"),
            ),
        },
    };
    journal.reached(&plan, end, Some(&reason))?;
    reporter.report(&Event::Reached {
        phase: end,
        reason: Some(&reason),
    });
    anyhow::ensure!(
        end != Phase::Halted,
        "deployment {} could be neither finished nor rolled back: {reason}; repair one color, then `deployer switch COLOR`",
        plan.id
    );
    Ok(())
}
