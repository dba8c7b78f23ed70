//! Recovery of a deployment whose deployer was killed.

use crate::{
    color::Color,
    deployment::{
        ending::{Traffic, ending},
        phase::Phase,
        return_traffic::{restore_standby, roll_back},
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    ports::{Ports, Service},
    state::{
        history::Action,
        journal::{Entry, Journal},
    },
};

/// The result of a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// No deployment is unfinished; another one can begin.
    Fine,
    /// The same, and this color received its traffic back from the candidate.
    RolledBack(Color),
    /// The candidate has traffic and cannot lose it, for this reason.
    Halted(String),
}

/// Completes or undoes an unfinished deployment.
///
/// A candidate that has traffic and no fit flag did not finish its bake, so it loses the traffic, unless a
/// person gave it the traffic. An unfinished rollback, switch, or failover is resumed first.
pub async fn recover(
    ports: &Ports,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<Recovery> {
    let traffic_mover = TrafficMover {
        ports,
        journal,
        reporter,
    };
    let finished = match traffic_mover.resume(true).await? {
        Some(pending) if pending.action == Action::RolledBack => Recovery::RolledBack(pending.to),
        _ => Recovery::Fine,
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
    // Traffic decides the result; every other failure is only reported.
    let note = |problem: Result<(), String>| {
        if let Err(text) = problem {
            reporter.report(&Event::Note { text });
        }
    };
    let words = |error: crate::ports::PortError| error.to_string();
    note(ports.router.set_shadow(false).map_err(words));
    if phase == Phase::Planned {
        note(restore_standby(ports, &plan).map_err(words));
    }
    let interrupted = "the deployer was interrupted";
    let back = ports.router.active().await? == plan.active;
    // A candidate with traffic receives this flag only at the end of its bake.
    let proven = phase == Phase::Switched && !back && ports.router.is_fit(plan.idle);
    if phase == Phase::Validated && !back {
        // Written before the rollback: if the deployer dies now, the next `recover` must know that traffic
        // moved.
        let written = journal.record_phase(&plan, Phase::Switched, None);
        note(written.map_err(|error| error.to_string()));
    }
    let (end, reason) = match (phase, back) {
        _ if proven => (
            Phase::Promoted,
            format!("{interrupted} after the bake, before the promotion was recorded"),
        ),
        (Phase::Switched, true) => (
            Phase::RolledBack,
            format!("{interrupted}; traffic is back on {}", plan.active),
        ),
        (_, true) => (
            Phase::Refused,
            format!("{interrupted}; traffic never moved"),
        ),
        (Phase::Validated | Phase::Switched, false) => {
            let decide = |healthy| ending(phase, Traffic::Candidate, Some(false), healthy);
            match roll_back(ports, &plan, decide).await {
                (_, None) => (
                    Phase::RolledBack,
                    format!("{interrupted} before the candidate was proven"),
                ),
                (_, Some(obstacle)) => (Phase::Halted, format!("{interrupted}; {obstacle}")),
            }
        }
        (_, false) => (
            Phase::Refused,
            format!(
                "{interrupted}; a person moved traffic to {} by hand, where it stays",
                plan.idle
            ),
        ),
    };
    let written = journal.record_phase(&plan, end, Some(&reason));
    note(written.map_err(|error| error.to_string()));
    // Requests may still hang on the candidate. The router repeats them on the color that has the traffic.
    let refused = end == Phase::Refused && back && phase != Phase::Planned;
    if end == Phase::RolledBack || refused {
        let stopped = ports.fleet.stop(Service::Server(plan.idle)).await;
        note(stopped.map_err(words));
    }
    reporter.report(&Event::PhaseReached {
        phase: end,
        reason: Some(&reason),
    });
    Ok(match end {
        Phase::Halted => Recovery::Halted(format!(
            "deployment {} could neither be completed nor rolled back: {reason}; repair one color, then `deployer switch COLOR`",
            plan.id
        )),
        Phase::RolledBack => Recovery::RolledBack(plan.active),
        _ => Recovery::Fine,
    })
}
