//! Everything that takes the traffic from a candidate again.

use deployer::{
    deployment::phase::Phase,
    ports::{Service, Target},
};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, Ended, OLD},
    fake_ports::passed_over_at,
    history::{Call, Happened},
    script::Fault,
    server::{Server, Trouble},
};

/// Traffic went back before the candidate was stopped, and the candidate may not stand in.
fn assert_given_back(ended: &Ended, words: &str) {
    ended.assert(Phase::RolledBack, words);
    let at = |call| ended.history.position(&call).expect("the call was made");
    let back = at(Call::PointAt(OLD));
    assert!(back < at(Call::Stop(Service::Server(CANDIDATE))));
    let moment = &ended.history.0[back];
    assert_eq!(moment.active, OLD);
    assert_eq!(moment.fit, [OLD]);
    assert_eq!(ended.active, OLD);
}

/// Two until it is healthy, one for its identity, one to know it again behind the router.
const CHECKS_BEFORE_THE_WATCH: usize = 4;

/// How long the candidate was watched.
fn observations(ended: &Ended) -> usize {
    ended
        .history
        .0
        .iter()
        .filter(|moment| matches!(moment.happened, Happened::MonitoredColor(_)))
        .count()
}

#[tokio::test(start_paused = true)]
async fn clients_that_are_answered_by_another_release_end_it_at_once() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.public_answers = Some(OLD);
    let ended = deployment.run().await;
    assert_given_back(
        &ended,
        "after the switch clients are answered by another release: it reports version v1, but v2 is wanted",
    );
    assert_eq!(observations(&ended), 0);
}

#[tokio::test(start_paused = true)]
async fn clients_that_are_not_answered_end_it_at_once() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::Health(Target::Public),
            Fault::Before,
        )
        .run()
        .await;
    assert_given_back(&ended, "after the switch clients are not answered");
    assert_eq!(observations(&ended), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_in_the_log_end_it_also_when_the_standby_hid_them() {
    let ended = Deployment::of(Server::later(3, Trouble::FailsClients))
        .run()
        .await;
    assert_given_back(&ended, "requests failed (");
    ended.assert(Phase::RolledBack, "at most 5.0 % allowed");
    assert!(
        !ended.outcome.reason.contains("counters"),
        "{}",
        ended.outcome.reason
    );
    assert!(observations(&ended) <= 6, "{}", observations(&ended));
}

#[tokio::test(start_paused = true)]
async fn being_passed_over_once_the_router_has_tried_it_ends_it() {
    // In a year that no test sees.
    let passed_over = vec![passed_over_at(1e12); 1_000];
    let ended = Deployment::of(Server::good())
        .then(
            |call| *call == Call::Predict(Target::Public),
            |state| state.log.extend(passed_over),
        )
        .run()
        .await;
    assert_given_back(&ended, "requests failed (");
}

#[tokio::test(start_paused = true)]
async fn failures_that_only_probes_met_end_it_too() {
    let candidate = Server {
        tells_counters: false,
        ..Server::later(0, Trouble::FailsClients)
    };
    let ended = Deployment::of(candidate).quiet().run().await;
    assert_given_back(&ended, "requests failed (100.0 %");
    ended.assert(Phase::RolledBack, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn failures_by_its_own_counters_end_it() {
    let ended = Deployment::of(Server::later(2, Trouble::CountsFailures))
        .run()
        .await;
    assert_given_back(&ended, "by its own counters, ");
    assert!(observations(&ended) < 10, "{}", observations(&ended));
}

#[tokio::test(start_paused = true)]
async fn health_that_fails_three_times_in_a_row_ends_it() {
    let ended = Deployment::of(Server::good())
        .quiet()
        .failing(
            CHECKS_BEFORE_THE_WATCH + 4..usize::MAX,
            |call| *call == Call::Health(Target::Server(CANDIDATE)),
            Fault::Before,
        )
        .run()
        .await;
    assert_given_back(
        &ended,
        "bake, after 6 s: 3 checks in a row failed, the last one: health check failed",
    );
}

#[tokio::test(start_paused = true)]
async fn test_requests_that_fail_three_times_in_a_row_end_it() {
    let smoke_tests = 10;
    let ended = Deployment::of(Server::good())
        .quiet()
        .failing(
            smoke_tests + 4..usize::MAX,
            |call| *call == Call::Predict(Target::Server(CANDIDATE)),
            Fault::Before,
        )
        .run()
        .await;
    assert_given_back(
        &ended,
        "3 checks in a row failed, the last one: test request failed",
    );
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stopped_ends_it_without_waiting_for_three_checks() {
    let ended = Deployment::of(Server::later(4, Trouble::Exited))
        .quiet()
        .run()
        .await;
    assert_given_back(&ended, "bake, after 4 s: it stopped: exit code 3");
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_hangs_does_not_keep_traffic_on_a_release_that_stopped() {
    let ended = Deployment::of(Server::later(4, Trouble::Exited))
        .quiet()
        .then(
            |call| *call == Call::PointAt(CANDIDATE),
            |state| state.engine_hangs = true,
        )
        .run()
        .await;
    // The look at 4 s waits for the engine for 2 s more; then what the probes met decides.
    assert_given_back(&ended, "bake, after 6 s: ");
}

#[tokio::test(start_paused = true)]
async fn an_uptime_that_fell_ends_it() {
    let ended = Deployment::of(Server::later(4, Trouble::WasRestarted))
        .run()
        .await;
    assert_given_back(&ended, "so it crashed and was started again");
}

#[tokio::test(start_paused = true)]
async fn a_release_of_which_too_little_is_seen_is_not_promoted() {
    let mut deployment = Deployment::of(Server::good()).quiet();
    deployment.settings.bake.min_requests = 1_000_000;
    let ended = deployment.run().await;
    assert_given_back(&ended, "are needed to judge");
    // Ten seconds, extended twice.
    assert_eq!(observations(&ended), 31);
}

#[tokio::test(start_paused = true)]
async fn failures_that_an_unreadable_log_hides_are_met_by_probes() {
    let candidate = Server {
        tells_counters: false,
        ..Server::later(0, Trouble::FailsClients)
    };
    // The log is read twice before the switch, and never again.
    let ended = Deployment::of(candidate)
        .failing(
            2..usize::MAX,
            |call| *call == Call::NewRequests,
            Fault::Before,
        )
        .run()
        .await;
    assert_given_back(&ended, "requests failed (100.0 %");
}

#[tokio::test(start_paused = true)]
async fn failures_that_nginx_does_not_log_are_met_by_probes() {
    let candidate = Server {
        tells_counters: false,
        ..Server::later(0, Trouble::FailsClients)
    };
    let mut deployment = Deployment::of(candidate);
    deployment.state.logs = false;
    assert_given_back(&deployment.run().await, "requests failed (100.0 %");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_at_the_switch_fails_no_release() {
    let ended = Deployment::of(Server::good())
        .failing(1..2, |call| *call == Call::NewRequests, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Promoted, "baked for 10 s");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_falls_sick_in_the_last_second_is_watched_until_that_is_clear() {
    let tenth_look = CHECKS_BEFORE_THE_WATCH + 9;
    let ended = Deployment::of(Server::good())
        .failing(
            tenth_look..usize::MAX,
            |call| *call == Call::Health(Target::Server(CANDIDATE)),
            Fault::Before,
        )
        .run()
        .await;
    assert_given_back(&ended, "bake, after 11 s: 3 checks in a row failed");
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_fails_after_traffic_moved_is_undone() {
    let ended = Deployment::of(Server::good())
        .failing(
            ALWAYS,
            |call| *call == Call::PointAt(CANDIDATE),
            Fault::After,
        )
        .run()
        .await;
    assert_given_back(&ended, "PointAt(Green) failed");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_cannot_be_made_fit_is_not_kept() {
    for fault in [Fault::Before, Fault::After] {
        let ended = Deployment::of(Server::good())
            .failing(ALWAYS, |call| *call == Call::SetFit(CANDIDATE, true), fault)
            .run()
            .await;
        assert_given_back(&ended, "SetFit(Green, true) failed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_hiccup_of_the_old_color_does_not_keep_traffic_from_it() {
    let ended = Deployment::of(Server::later(4, Trouble::Exited))
        .failing(
            1..3,
            |call| *call == Call::Health(Target::Server(OLD)),
            Fault::Before,
        )
        .run()
        .await;
    assert_given_back(&ended, "it stopped");
}
