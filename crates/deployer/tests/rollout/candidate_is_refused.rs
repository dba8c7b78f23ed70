//! Everything that turns a candidate down before it ever has traffic.

use std::time::Duration;

use deployer::{
    deployment::phase::Phase,
    ports::{Service, Target},
};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, Ended, OLD},
    history::Call,
    script::Fault,
    server::{Server, Trouble},
};

const STOP: Call = Call::Stop(Service::Server(CANDIDATE));

/// The candidate was turned down, removed, and the flags never named it.
fn assert_removed(ended: &Ended, words: &str) {
    ended.assert(Phase::Refused, words);
    assert_eq!(ended.count(&STOP), 1);
    assert_eq!(ended.count(&Call::PointAt(CANDIDATE)), 0);
    assert_eq!(ended.history.last().fit, [OLD]);
}

#[tokio::test(start_paused = true)]
async fn deployment_is_refused_when_active_color_is_sick() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.blue.trouble = Trouble::Unhealthy;
    let ended = deployment.run().await;
    ended.assert(
        Phase::Refused,
        "the active color blue is not healthy, so nothing could be compared or rolled back to: answered 503",
    );
    assert!(!ended.history.touched_anything(), "{:#?}", ended.history);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_it_cannot_start() {
    let ended = Deployment::of(Server::with(Trouble::CannotStart))
        .run()
        .await;
    assert_removed(&ended, "no such image");
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_with_log_lines_when_never_healthy() {
    let ended = Deployment::of(Server::with(Trouble::Unhealthy)).run().await;
    assert_removed(
        &ended,
        "health: not healthy after 5 tries, 3s apart: answered 503",
    );
    ended.assert(Phase::Refused, "these are its last log lines");
    let health = Call::Health(Target::Server(CANDIDATE));
    assert_eq!(ended.count(&health), 5);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_at_once_when_it_stops() {
    let ended = Deployment::of(Server::with(Trouble::Exited)).run().await;
    assert_removed(&ended, "it stopped while starting: exit code 3");
    ended.assert(Phase::Refused, "these are its last log lines");
    assert!(ended.took < Duration::from_secs(1), "{:?}", ended.took);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_it_reports_another_version() {
    let ended = Deployment::of(Server::with(Trouble::IsStale)).run().await;
    assert_removed(
        &ended,
        "identity: it reports version stale, but v2 is wanted",
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_router_reaches_another_server() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.router_reaches = Some(Server::good().started("v0"));
    let ended = deployment.run().await;
    assert_removed(
        &ended,
        "reachable: the router reaches another server: it reports version v0, but v2 is wanted",
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_router_does_not_reach_it() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::Health(Target::ThroughRouter(CANDIDATE)),
            Fault::Before,
        )
        .run()
        .await;
    assert_removed(&ended, "reachable: the router does not reach it");
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_smoke_fails() {
    let ended = Deployment::of(Server::with(Trouble::FailsOneIn(5)))
        .run()
        .await;
    assert_removed(
        &ended,
        "smoke: 2 of 10 requests failed (20.0 %, at most 5.0 % allowed); for example: answered 500",
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_refused_when_switch_fails_before_traffic_moves() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::PointAt(CANDIDATE),
            Fault::Before,
        )
        .run()
        .await;
    ended.assert(Phase::Refused, "PointAt(Green) failed");
    assert_eq!(ended.count(&STOP), 1);
    assert_eq!(ended.count(&Call::PointAt(OLD)), 0);
}

#[tokio::test(start_paused = true)]
async fn refusal_holds_when_candidate_cannot_be_stopped() {
    let ended = Deployment::of(Server::with(Trouble::IsStale))
        .failing(ALWAYS, |call| *call == STOP, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Refused, "stale");
    let notes = ended.history.notes();
    assert!(
        notes
            .iter()
            .any(|note| note.starts_with("the candidate could not be stopped")),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn standby_is_untouched_when_its_flag_cannot_be_removed() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::SetFit(CANDIDATE, false),
            Fault::Before,
        )
        .run()
        .await;
    ended.assert(Phase::Refused, "SetFit(Green, false) failed");
    assert_eq!(ended.count(&STOP), 0);
    assert_eq!(ended.history.last().fit, [CANDIDATE, OLD]);
}

#[tokio::test(start_paused = true)]
async fn standby_keeps_its_flag_when_active_color_gets_none() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::SetFit(OLD, true),
            Fault::Before,
        )
        .run()
        .await;
    ended.assert(Phase::Refused, "SetFit(Blue, true) failed");
    assert_eq!(ended.count(&STOP), 0);
    assert!(ended.history.last().fit.contains(&CANDIDATE));
}
