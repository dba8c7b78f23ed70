//! Returns traffic to the color that had it before a deployment.

use std::time::Duration;

use crate::{
    deployment::{ending::Ending, phase::Phase, plan::Plan},
    ports::{OnSilentRouter, PortError, Ports, Target, UnconfirmedRouter},
    state::journal::Journal,
};

/// Sets the idle color's fit flag again if it had one before a deployment that did not touch the color.
pub async fn restore_standby(ports: &Ports, plan: &Plan) -> Result<(), PortError> {
    if plan.idle_was_fit {
        ports.flags.set_fit(plan.idle, true).await?;
    }
    Ok(())
}

/// Writes that the candidate has traffic, before traffic moves back: if the deployer dies in between, the next
/// command must know that traffic moved.
///
/// Removes the candidate's fit flag first. A candidate of this phase that has traffic and the flag counts as
/// proven.
pub async fn record_switched(
    ports: &Ports,
    journal: &Journal<'_>,
    plan: &Plan,
) -> Result<(), String> {
    // Also if the flag cannot be read.
    if ports.flags.is_fit(plan.idle).await != Ok(false) {
        let unfit = ports.flags.set_fit(plan.idle, false).await;
        unfit.map_err(|error| error.to_string())?;
    }
    let written = journal.record_phase(plan, Phase::Switched, None).await;
    written.map_err(|error| error.to_string())
}

/// Checks that the color that had the traffic before `plan` is healthy, so that a rollback does not make things
/// worse. The error says why it is not.
pub async fn check_previous(ports: &Ports, plan: &Plan) -> Result<(), String> {
    const TRIES: u32 = 3;
    const PAUSE: Duration = Duration::from_millis(200);

    let active = plan.active;
    let mut problem = String::new();
    for _ in 0..TRIES {
        match ports.probe.health(Target::Server(active)).await {
            Ok(_) => return Ok(()),
            Err(error) => problem = error.to_string(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{active} is unhealthy too: {problem}"))
}

/// Moves traffic to the color that had it before `plan`, and returns the routers that did not confirm it. The error says
/// what is not as it was before.
pub async fn return_traffic(ports: &Ports, plan: &Plan) -> Result<Vec<UnconfirmedRouter>, String> {
    let Plan { active, idle, .. } = *plan;
    // First, so that the failed color does not stand in. Traffic moves also if the flag cannot be removed.
    let unfit = ports.flags.set_fit(idle, false).await;
    let switched = ports
        .router
        .switch_to(active, OnSilentRouter::MoveOthers)
        .await;
    let switched = switched.map_err(|error| error.to_string())?;
    unfit.map_err(|error| {
        format!("traffic is back on {active}, but {idle} may still stand in for it: {error}")
    })?;
    Ok(switched.unconfirmed)
}

/// Returns traffic if `decide` still says so with the health of the previous color. Returns the end, and what
/// prevented the return if it is a halt, or which routers did not confirm it.
pub async fn roll_back(
    ports: &Ports,
    plan: &Plan,
    decide: impl Fn(Option<bool>) -> Ending,
) -> (Ending, Option<String>) {
    let health = check_previous(ports, plan).await;
    let end = decide(Some(health.is_ok()));
    if end != Ending::RollBack {
        return (end, health.err());
    }
    match return_traffic(ports, plan).await {
        Ok(unconfirmed) => (end, UnconfirmedRouter::in_words(&unconfirmed)),
        Err(obstacle) => (Ending::Halt, Some(obstacle)),
    }
}
