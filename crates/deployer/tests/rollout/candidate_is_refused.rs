//! Deployments that are refused: the candidate never has traffic.

use std::time::Duration;

use deployer::{
    deployment::phase::Phase,
    ports::{Service, Target},
};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, FinishedDeployment, OLD},
    fake_ports::Hanging,
    faults::CallFault,
    server::{Server, ServerFault},
    trace::Call,
};

const STOP: Call = Call::Stop(Service::Server(CANDIDATE));

/// Asserts that the candidate was refused and stopped, never had traffic, and is not fit.
fn assert_refused_and_stopped(finished: &FinishedDeployment, reason: &str) {
    finished.assert_outcome(Phase::Refused, reason);
    assert_eq!(finished.count(&STOP), 1);
    assert_eq!(finished.count(&Call::SwitchTo(CANDIDATE)), 0);
    assert_eq!(finished.trace.last().fit, [OLD]);
}

#[tokio::test(start_paused = true)]
async fn deployment_is_refused_when_active_color_is_unhealthy() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.blue.fault = ServerFault::Unhealthy;
    let finished = deployment.run().await;
    finished.assert_outcome(
        Phase::Refused,
        "the active color blue is not healthy, so nothing could be compared or rolled back to: answered 503",
    );
    assert!(!finished.trace.changed_anything(), "{:#?}", finished.trace);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_it_cannot_start() {
    let finished = Deployment::of(Server::with_fault(ServerFault::CannotStart))
        .run()
        .await;
    assert_refused_and_stopped(&finished, "no such image");
}

#[tokio::test(start_paused = true)]
async fn idle_color_is_untouched_when_image_cannot_be_fetched() {
    let finished = Deployment::of(Server::with_fault(ServerFault::CannotBePrepared))
        .run()
        .await;
    finished.assert_outcome(Phase::Refused, "no registry");
    assert!(!finished.trace.changed_anything(), "{:#?}", finished.trace);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_with_log_lines_when_never_healthy() {
    let finished = Deployment::of(Server::with_fault(ServerFault::Unhealthy))
        .run()
        .await;
    assert_refused_and_stopped(
        &finished,
        "health: not healthy after 12s, and no progress for 12s (health.stall): answered 503",
    );
    finished.assert_outcome(Phase::Refused, "these are its last log lines");
    let health = Call::Health(Target::Server(CANDIDATE));
    assert_eq!(finished.count(&health), 5);
}

#[tokio::test(start_paused = true)]
async fn unhealthy_candidate_is_refused_in_time_when_fleet_hangs() {
    let mut deployment = Deployment::of(Server::with_fault(ServerFault::Unhealthy));
    deployment.state.hanging = Some(Hanging::Fleet);
    let finished = deployment.run().await;
    assert_refused_and_stopped(&finished, "no progress for 12s (health.stall)");
    // The fleet has 3 s for its state and 5 s for what the candidate does, after each of three checks. The first answer is
    // progress, and pauses of 3 s and 1 s follow.
    assert_eq!(finished.took.as_secs(), 3 * (3 + 5) + 3 + 1);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_at_once_when_it_exits() {
    let finished = Deployment::of(Server::with_fault(ServerFault::Exited))
        .run()
        .await;
    assert_refused_and_stopped(&finished, "it stopped while starting: exit code 3");
    finished.assert_outcome(Phase::Refused, "these are its last log lines");
    assert!(
        finished.took < Duration::from_secs(1),
        "{:?}",
        finished.took
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_it_reports_another_version() {
    let finished = Deployment::of(Server::with_fault(ServerFault::ReportsStaleVersion))
        .run()
        .await;
    assert_refused_and_stopped(
        &finished,
        "identity: it reports version stale, but v2 is wanted",
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_router_reaches_another_server() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.router_reaches = Some(Server::good().started("v0"));
    let finished = deployment.run().await;
    assert_refused_and_stopped(
        &finished,
        "reachable: the router reaches another server: it reports version v0, but v2 is wanted",
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_router_does_not_reach_it() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::Health(Target::ThroughRouter(CANDIDATE)),
            CallFault::Before,
        )
        .run()
        .await;
    assert_refused_and_stopped(&finished, "reachable: the router does not reach it");
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_smoke_fails() {
    let finished = Deployment::of(Server::with_fault(ServerFault::FailsOneIn(5)))
        .run()
        .await;
    assert_refused_and_stopped(
        &finished,
        "smoke: 2 of 10 requests failed (20.0 %, at most 5.0 % allowed); for example: answered 500",
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_switch_fails_before_traffic_moves() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::SwitchTo(CANDIDATE),
            CallFault::Before,
        )
        .run()
        .await;
    finished.assert_outcome(Phase::Refused, "SwitchTo(Green) failed");
    assert_eq!(finished.count(&STOP), 1);
    assert_eq!(finished.count(&Call::SwitchTo(OLD)), 0);
}

#[tokio::test(start_paused = true)]
async fn refusal_holds_when_candidate_cannot_be_stopped() {
    let finished = Deployment::of(Server::with_fault(ServerFault::ReportsStaleVersion))
        .failing_calls(ALWAYS, |call| *call == STOP, CallFault::Before)
        .run()
        .await;
    finished.assert_outcome(Phase::Refused, "stale");
    let notes = finished.trace.notes();
    assert!(
        notes
            .iter()
            .any(|note| note.starts_with("the candidate could not be stopped")),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn standby_is_untouched_when_it_stays_fit() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::SetFit(CANDIDATE, false),
            CallFault::Before,
        )
        .run()
        .await;
    finished.assert_outcome(Phase::Refused, "SetFit(Green, false) failed");
    assert_eq!(finished.count(&STOP), 0);
    assert_eq!(finished.trace.last().fit, [CANDIDATE, OLD]);
}

#[tokio::test(start_paused = true)]
async fn standby_stays_fit_when_active_color_cannot_become_fit() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::SetFit(OLD, true),
            CallFault::Before,
        )
        .run()
        .await;
    finished.assert_outcome(Phase::Refused, "SetFit(Blue, true) failed");
    assert_eq!(finished.count(&STOP), 0);
    assert!(finished.trace.last().fit.contains(&CANDIDATE));
}
