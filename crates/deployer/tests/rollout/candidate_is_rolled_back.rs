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
async fn another_release_answering_clients_rolls_back_at_once() {
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
async fn unanswered_clients_roll_back_at_once() {
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
async fn failures_hidden_by_standby_roll_back() {
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
async fn passed_over_candidate_is_rolled_back_after_first_attempt() {
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
async fn failures_of_own_requests_roll_back() {
    let candidate = Server {
        tells_counters: false,
        ..Server::later(0, Trouble::FailsClients)
    };
    let ended = Deployment::of(candidate).quiet().run().await;
    assert_given_back(&ended, "requests failed (100.0 %");
    ended.assert(Phase::RolledBack, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn failures_in_own_counters_roll_back() {
    let ended = Deployment::of(Server::later(2, Trouble::CountsFailures))
        .run()
        .await;
    assert_given_back(&ended, "by its own counters, ");
    assert!(observations(&ended) < 10, "{}", observations(&ended));
}

#[tokio::test(start_paused = true)]
async fn three_failed_health_checks_roll_back() {
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
async fn three_failed_test_requests_roll_back() {
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
async fn stopped_process_rolls_back_at_once() {
    let ended = Deployment::of(Server::later(4, Trouble::Exited))
        .quiet()
        .run()
        .await;
    assert_given_back(&ended, "bake, after 4 s: it stopped: exit code 3");
}

#[tokio::test(start_paused = true)]
async fn hanging_engine_does_not_delay_the_rollback() {
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
async fn falling_uptime_rolls_back() {
    let ended = Deployment::of(Server::later(4, Trouble::WasRestarted))
        .run()
        .await;
    assert_given_back(&ended, "so it crashed and was started again");
}

#[tokio::test(start_paused = true)]
async fn release_with_too_little_evidence_is_not_promoted() {
    let mut deployment = Deployment::of(Server::good()).quiet();
    deployment.settings.bake.min_requests = 1_000_000;
    let ended = deployment.run().await;
    assert_given_back(&ended, "are needed to judge");
    // Ten seconds, extended twice.
    assert_eq!(observations(&ended), 31);
}

#[tokio::test(start_paused = true)]
async fn own_requests_find_failures_when_log_is_unreadable() {
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
async fn own_requests_find_failures_that_nginx_does_not_log() {
    let candidate = Server {
        tells_counters: false,
        ..Server::later(0, Trouble::FailsClients)
    };
    let mut deployment = Deployment::of(candidate);
    deployment.state.logs = false;
    assert_given_back(&deployment.run().await, "requests failed (100.0 %");
}

#[tokio::test(start_paused = true)]
async fn unreadable_log_at_the_switch_does_not_fail() {
    let ended = Deployment::of(Server::good())
        .failing(1..2, |call| *call == Call::NewRequests, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Promoted, "baked for 10 s");
}

#[tokio::test(start_paused = true)]
async fn sickness_in_the_last_second_prolongs_the_bake() {
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
async fn switch_is_undone_when_it_fails_after_traffic_moved() {
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
async fn candidate_is_rolled_back_when_it_cannot_become_fit() {
    for fault in [Fault::Before, Fault::After] {
        let ended = Deployment::of(Server::good())
            .failing(ALWAYS, |call| *call == Call::SetFit(CANDIDATE, true), fault)
            .run()
            .await;
        assert_given_back(&ended, "SetFit(Green, true) failed");
    }
}

#[tokio::test(start_paused = true)]
async fn rollback_retries_a_hiccup_of_the_old_color() {
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
