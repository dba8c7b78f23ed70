//! What is done about a deployment whose deployer died in the middle of it.

use crate::{
    color::Color,
    event::{Event, Reporter},
    history::Deed,
    journal::{Entry, Journal},
    phase::Phase,
    ports::{Service, World},
    rollout::{give_back, restore_standby},
    transfer::Transfer,
};

/// What became of an unfinished deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// There is none any more: something else can begin.
    Fine,
    /// The same, and this color has got its traffic back from the candidate.
    RolledBack(Color),
    /// The candidate has traffic, and cannot be relieved of it, for this reason.
    Halted(String),
}

/// Brings an unfinished deployment to an end, if there is one, before anything else is begun.
///
/// A candidate that has traffic and may not stand in was not watched to the end, so it loses it;
/// unless a person gave it the traffic, since the deployer had not come that far. What somebody was
/// doing without a deployment is seen through first.
pub async fn settle(
    world: &World,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<Settled> {
    let transfer = Transfer {
        world,
        journal,
        reporter,
    };
    let finished = match transfer.finish(true).await? {
        Some(intent) if intent.deed == Deed::RolledBack => Settled::RolledBack(intent.to),
        _ => Settled::Fine,
    };
    let Some(Entry {
        plan, phase, since, ..
    }) = journal.last()?
    else {
        return Ok(finished);
    };
    if phase.is_end() {
        return Ok(finished);
    }
    reporter.report(&Event::Resumed {
        plan: &plan,
        phase,
        since,
    });
    // Where traffic goes is what matters; what else fails is told.
    let note = |problem: Result<(), String>| {
        if let Err(text) = problem {
            reporter.report(&Event::Note { text });
        }
    };
    let words = |error: crate::ports::WorldError| error.to_string();
    note(world.router.set_shadow(false).map_err(words));
    if phase == Phase::Planned {
        note(restore_standby(world, &plan).map_err(words));
    }
    let interrupted = "the deployer was interrupted";
    let back = world.router.active().await? == plan.active;
    // Nothing but the proof gives it this flag while it has the traffic.
    let proven = phase == Phase::Switched && !back && world.router.is_fit(plan.idle);
    if phase == Phase::Validated && !back {
        // Traffic has moved: also whoever dies on the way back must not say that it never did.
        let written = journal.reached(&plan, Phase::Switched, None);
        note(written.map_err(|error| error.to_string()));
    }
    let (end, reason) = match (phase, back) {
        _ if proven => (
            Phase::Promoted,
            format!("{interrupted} when the candidate was proven, before it could say so"),
        ),
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
    let written = journal.reached(&plan, end, Some(&reason));
    note(written.map_err(|error| error.to_string()));
    // Requests may still hang on it; the router repeats them on the color that has the traffic.
    let refused = end == Phase::Refused && back && phase != Phase::Planned;
    if end == Phase::RolledBack || refused {
        let stopped = world.fleet.stop(Service::Server(plan.idle)).await;
        note(stopped.map_err(words));
    }
    reporter.report(&Event::Reached {
        phase: end,
        reason: Some(&reason),
    });
    Ok(match end {
        Phase::Halted => Settled::Halted(format!(
            "deployment {} could be neither finished nor rolled back: {reason}; repair one color, then `deployer switch COLOR`",
            plan.id
        )),
        Phase::RolledBack => Settled::RolledBack(plan.active),
        _ => Settled::Fine,
    })
}
