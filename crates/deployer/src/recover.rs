//! What is done about a deployment whose deployer died in the middle of it.

use crate::{
    event::{Event, Reporter},
    journal::{Entry, Journal},
    phase::Phase,
    ports::World,
    rollout::give_back,
};

/// What became of an unfinished deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// There is none any more: something else can begin.
    Fine,
    /// The candidate has traffic, and cannot be relieved of it, for this reason.
    Halted(String),
}

/// Brings an unfinished deployment to an end, if there is one, before anything else is begun.
///
/// A candidate that has traffic was not watched to the end, so it loses it; unless a person gave
/// it the traffic, since the deployer had not come that far.
pub async fn settle(
    world: &World,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<Settled> {
    let Some(Entry {
        plan, phase, since, ..
    }) = journal.last()?
    else {
        return Ok(Settled::Fine);
    };
    if phase.is_end() {
        return Ok(Settled::Fine);
    }
    reporter.report(&Event::Resumed {
        plan: &plan,
        phase,
        since,
    });
    world.router.set_shadow(false)?;
    let interrupted = "the deployer was interrupted";
    let back = world.router.active().await? == plan.active;
    let (end, reason) = match (phase, back) {
        (Phase::Switched, true) => (
            Phase::RolledBack,
            format!("{interrupted}; traffic is back on {}", plan.active),
        ),
        (_, true) => (
            Phase::Refused,
            format!("{interrupted}; traffic never moved"),
        ),
        (Phase::Validated | Phase::Switched, false) => match give_back(world, &plan).await {
            Ok(()) => (
                Phase::RolledBack,
                format!("{interrupted} before the candidate was proven"),
            ),
            Err(obstacle) => (Phase::Halted, format!("{interrupted}; {obstacle}")),
        },
        (_, false) => (
            Phase::Refused,
            format!(
                "{interrupted}; somebody moved traffic to {} by hand, where it stays",
                plan.idle
            ),
        ),
    };
    journal.reached(&plan, end, Some(&reason))?;
    reporter.report(&Event::Reached {
        phase: end,
        reason: Some(&reason),
    });
    Ok(if end == Phase::Halted {
        Settled::Halted(format!(
            "deployment {} could be neither finished nor rolled back: {reason}; repair one color, then `deployer switch COLOR`",
            plan.id
        ))
    } else {
        Settled::Fine
    })
}
