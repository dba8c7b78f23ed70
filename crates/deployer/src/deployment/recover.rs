//! Recovery of a deployment whose deployer was killed.

use crate::{
    color::Color,
    deployment::{
        ending::{Ending, Traffic, ending},
        interrupted::stop_candidate,
        phase::Phase,
        plan::Plan,
        return_traffic::{record_switched, restore_standby, roll_back},
        traffic_mover::TrafficMover,
    },
    event::{Event, Reporter},
    ports::{PortError, Ports},
    report::Reports,
    state::{action::Action, journal::Journal, journal_entries::DeploymentEntry},
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
/// person gave it the traffic by `deployer switch`. An unfinished rollback, switch, or failover is resumed first.
pub async fn recover(
    ports: &Ports,
    journal: &Journal<'_>,
    reports: &Reports,
    reporter: &dyn Reporter,
) -> anyhow::Result<Recovery> {
    let traffic_mover = TrafficMover {
        ports,
        journal,
        reports,
        reporter,
    };
    let finished = match traffic_mover.resume(true).await? {
        Some(pending) if pending.action == Action::RolledBack => Recovery::RolledBack(pending.to),
        _ => Recovery::Fine,
    };
    match journal.read().await?.unfinished_deployment() {
        Some(entry) => end_deployment(ports, journal, reporter, entry).await,
        None => Ok(finished),
    }
}

/// Ends the unfinished deployment of this entry.
async fn end_deployment(
    ports: &Ports,
    journal: &Journal<'_>,
    reporter: &dyn Reporter,
    entry: &DeploymentEntry,
) -> anyhow::Result<Recovery> {
    let DeploymentEntry {
        ref plan,
        phase,
        since,
        ..
    } = *entry;
    reporter.report(&Event::Resumed { plan, phase, since });
    // Traffic decides the result; every other failure is only reported.
    let note = |problem: Result<(), String>| {
        if let Err(text) = problem {
            reporter.report(&Event::Note { text });
        }
    };
    let message = |error: PortError| error.to_string();
    note(ports.flags.set_shadow(false).await.map_err(message));
    if phase == Phase::Planned {
        note(restore_standby(ports, plan).await.map_err(message));
    }
    let traffic = Traffic::on(ports.router.active().await?, plan);
    // A switched candidate receives this flag only at the end of its bake.
    let fit = ports.flags.is_fit(plan.idle).await;
    let proven = fit.map_err(|error| note(Err(message(error)))).ok();
    let decide = |previous_healthy| ending(phase, traffic, proven, previous_healthy);
    let (end, remark) = match decide(None) {
        Ending::RollBack if traffic != Traffic::Previous => {
            if phase != Phase::Switched {
                note(record_switched(ports, journal, plan).await);
            }
            roll_back(ports, plan, decide).await
        }
        end => (end, None),
    };
    let ended = end.phase().unwrap_or(phase);
    let reason = reason(end, traffic, plan, remark);
    let written = journal.record_phase(plan, ended, Some(&reason)).await;
    note(written.map_err(|error| error.to_string()));
    // Requests may still hang on the candidate. The router repeats them on the color that has the traffic.
    if end.stops_candidate(phase) {
        let stopped = stop_candidate(ports, journal, plan.idle, end, reporter).await;
        note(stopped.map_err(message));
    }
    reporter.report(&Event::PhaseReached {
        phase: ended,
        reason: Some(&reason),
    });
    Ok(match end {
        Ending::Halt => Recovery::Halted(format!(
            "deployment {} could neither be completed nor rolled back: {reason}; repair one color, then `deployer switch COLOR`",
            plan.id
        )),
        Ending::RollBack => Recovery::RolledBack(plan.active),
        Ending::Keep | Ending::Refuse | Ending::Promote => Recovery::Fine,
    })
}

/// Says why an interrupted deployment ended like this. `remark` is what prevented a rollback, or which routers did not
/// confirm it.
fn reason(end: Ending, traffic: Traffic, plan: &Plan, remark: Option<String>) -> String {
    let interrupted = "the deployer was interrupted";
    match (end, traffic) {
        (Ending::Promote, _) => {
            format!("{interrupted} after the bake, before the promotion was recorded")
        }
        (Ending::Refuse, Traffic::Candidate) => format!(
            "{interrupted}; a person moved traffic to {}, where it stays",
            plan.idle
        ),
        (Ending::Keep | Ending::Refuse, _) => format!("{interrupted}; traffic never moved"),
        (Ending::RollBack, Traffic::Previous) => {
            format!("{interrupted}; traffic is back on {}", plan.active)
        }
        (Ending::RollBack, _) => {
            let unconfirmed = remark.map_or_else(String::new, |words| format!("; {words}"));
            format!("{interrupted} before the candidate was proven{unconfirmed}")
        }
        (Ending::Halt, _) => format!("{interrupted}; {}", remark.unwrap_or_default()),
    }
}
