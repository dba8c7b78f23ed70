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
async fn nothing_is_touched_while_the_active_color_is_sick() {
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
async fn a_release_that_cannot_be_started_is_refused() {
    let ended = Deployment::of(Server::with(Trouble::CannotStart))
        .run()
        .await;
    assert_removed(&ended, "no such image");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_never_becomes_healthy_is_refused_with_its_last_words() {
    let ended = Deployment::of(Server::with(Trouble::Unhealthy)).run().await;
    assert_removed(
        &ended,
        "health: not healthy after 5 tries, 3s apart: answered 503",
    );
    ended.assert(Phase::Refused, "these are its last words");
    let health = Call::Health(Target::Server(CANDIDATE));
    assert_eq!(ended.count(&health), 5);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_stops_while_starting_is_refused_without_waiting() {
    let ended = Deployment::of(Server::with(Trouble::Exited)).run().await;
    assert_removed(&ended, "it stopped while starting: exit code 3");
    ended.assert(Phase::Refused, "these are its last words");
    assert!(ended.took < Duration::from_secs(1), "{:?}", ended.took);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_reports_another_version_is_refused() {
    let ended = Deployment::of(Server::with(Trouble::IsStale)).run().await;
    assert_removed(
        &ended,
        "identity: it reports version stale, but v2 is wanted",
    );
}

#[tokio::test(start_paused = true)]
async fn a_candidate_is_refused_when_the_router_reaches_another_server() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.router_reaches = Some(Server::good().started("v0"));
    let ended = deployment.run().await;
    assert_removed(
        &ended,
        "reachable: the router reaches another server: it reports version v0, but v2 is wanted",
    );
}

#[tokio::test(start_paused = true)]
async fn a_candidate_is_refused_when_the_router_does_not_reach_it() {
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
async fn a_release_that_fails_test_requests_is_refused() {
    let ended = Deployment::of(Server::with(Trouble::FailsOneIn(5)))
        .run()
        .await;
    assert_removed(
        &ended,
        "smoke: 2 of 10 requests failed (20.0 %, at most 5.0 % allowed); for example: answered 500",
    );
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_fails_before_traffic_moved_is_a_refusal() {
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
async fn a_refusal_stands_also_when_the_candidate_cannot_be_stopped() {
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
async fn a_standby_is_left_alone_when_its_flag_cannot_be_taken() {
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
async fn a_standby_keeps_its_flag_when_the_active_color_cannot_get_one() {
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
