//! Deployments that are rolled back after the switch.

use deployer::{
    config::GateName,
    deployment::phase::Phase,
    ports::{Service, Target},
};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, FinishedDeployment, OLD},
    fake_ports::{Hanging, passed_over_at},
    faults::CallFault,
    server::{Server, ServerFault},
    trace::{Call, TraceEvent},
};

/// Asserts that traffic moved back before the candidate was stopped, and that the candidate is not fit.
fn assert_rolled_back(finished: &FinishedDeployment, reason: &str) {
    finished.assert_outcome(Phase::RolledBack, reason);
    let at = |call| finished.trace.position(&call).expect("the call was made");
    let moved_back = at(Call::SwitchTo(OLD));
    assert!(moved_back < at(Call::Stop(Service::Server(CANDIDATE))));
    let entry = &finished.trace.0[moved_back];
    assert_eq!(entry.active, OLD);
    assert_eq!(entry.fit, [OLD]);
    assert_eq!(finished.active, OLD);
}

/// Health checks of the candidate before the bake: two until it is healthy, one for `identity`, and one for
/// `reachable`.
const CHECKS_BEFORE_BAKE: usize = 4;

/// How many observations the bake made, one per second.
fn observations(finished: &FinishedDeployment) -> usize {
    finished
        .trace
        .0
        .iter()
        .filter(|entry| matches!(entry.event, TraceEvent::BakeObserved(_)))
        .count()
}

#[tokio::test(start_paused = true)]
async fn candidate_is_rolled_back_when_another_release_answers_clients() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.public_color = Some(OLD);
    let finished = deployment.run().await;
    assert_rolled_back(
        &finished,
        "after the switch clients are answered by another release: it reports version v1, but v2 is wanted",
    );
    assert_eq!(observations(&finished), 0);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_rolled_back_when_clients_get_no_answer() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::Health(Target::Public),
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(&finished, "after the switch clients are not answered");
    assert_eq!(observations(&finished), 0);
}

#[tokio::test(start_paused = true)]
async fn failures_hidden_by_standby_roll_back() {
    let finished = Deployment::of(Server::with_fault_after(3, ServerFault::FailsClients))
        .run()
        .await;
    assert_rolled_back(&finished, "requests failed (");
    finished.assert_outcome(Phase::RolledBack, "at most 5.0 % allowed");
    assert!(
        !finished.outcome.reason.contains("counters"),
        "{}",
        finished.outcome.reason
    );
    assert!(observations(&finished) <= 6, "{}", observations(&finished));
}

#[tokio::test(start_paused = true)]
async fn passed_over_candidate_is_rolled_back_after_first_attempt() {
    // Later than every first attempt.
    let passed_over = vec![passed_over_at(1e12); 1_000];
    let finished = Deployment::of(Server::good())
        .interfere_after(
            |call| *call == Call::Predict(Target::Public),
            |state| state.logged_requests.extend(passed_over),
        )
        .run()
        .await;
    assert_rolled_back(&finished, "requests failed (");
}

#[tokio::test(start_paused = true)]
async fn failures_of_own_requests_roll_back() {
    let candidate = Server {
        reports_counters: false,
        ..Server::with_fault_after(0, ServerFault::FailsClients)
    };
    let finished = Deployment::of(candidate).without_clients().run().await;
    assert_rolled_back(&finished, "requests failed (100.0 %");
    finished.assert_outcome(Phase::RolledBack, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn failures_in_own_counters_roll_back() {
    let finished = Deployment::of(Server::with_fault_after(2, ServerFault::CountsFailures))
        .run()
        .await;
    assert_rolled_back(&finished, "by its own counters, ");
    assert!(observations(&finished) < 10, "{}", observations(&finished));
}

#[tokio::test(start_paused = true)]
async fn three_failed_health_checks_roll_back() {
    let finished = Deployment::of(Server::good())
        .without_clients()
        .failing_calls(
            CHECKS_BEFORE_BAKE + 4..usize::MAX,
            |call| *call == Call::Health(Target::Server(CANDIDATE)),
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(
        &finished,
        "bake, after 6 s: 3 checks in a row failed (bake.failures), the last one: health check failed",
    );
}

#[tokio::test(start_paused = true)]
async fn three_failed_test_requests_roll_back() {
    let smoke_requests = 10;
    let finished = Deployment::of(Server::good())
        .without_clients()
        .failing_calls(
            smoke_requests + 4..usize::MAX,
            |call| *call == Call::Predict(Target::Server(CANDIDATE)),
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(
        &finished,
        "3 checks in a row failed (bake.failures), the last one: test request failed",
    );
}

#[tokio::test(start_paused = true)]
async fn exited_candidate_is_rolled_back_at_once() {
    let finished = Deployment::of(Server::with_fault_after(4, ServerFault::Exited))
        .without_clients()
        .run()
        .await;
    assert_rolled_back(&finished, "bake, after 4 s: it stopped: exit code 3");
}

#[tokio::test(start_paused = true)]
async fn hanging_fleet_does_not_delay_the_rollback() {
    let finished = Deployment::of(Server::with_fault_after(4, ServerFault::Exited))
        .without_clients()
        .interfere_after(
            |call| *call == Call::SwitchTo(CANDIDATE),
            |state| state.hanging = Some(Hanging::Fleet),
        )
        .run()
        .await;
    // The own requests decide.
    assert_rolled_back(&finished, "bake, after 4 s: 25 of 100 requests failed");
}

#[tokio::test(start_paused = true)]
async fn hanging_fleet_does_not_delay_the_checks() {
    let finished = Deployment::of(Server::good())
        .without_clients()
        .interfere_after(
            |call| *call == Call::SwitchTo(CANDIDATE),
            |state| state.hanging = Some(Hanging::Fleet),
        )
        .failing_calls(
            CHECKS_BEFORE_BAKE + 4..usize::MAX,
            |call| *call == Call::Health(Target::Server(CANDIDATE)),
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(&finished, "bake, after 6 s: 3 checks in a row failed");
}

#[tokio::test(start_paused = true)]
async fn hanging_log_does_not_delay_the_rollback() {
    let finished = Deployment::of(Server::with_fault_after(4, ServerFault::Exited))
        .without_clients()
        .interfere_after(
            |call| *call == Call::SwitchTo(CANDIDATE),
            |state| state.hanging = Some(Hanging::RequestLog),
        )
        .run()
        .await;
    // The log has 1 s to answer.
    assert_rolled_back(&finished, "bake, after 5 s: it stopped: exit code 3");
    let notes = finished.trace.notes();
    assert!(
        notes.contains(&"the router's log could not be read within 1s"),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn hanging_candidate_is_rolled_back_soon_after_the_first_time_limit() {
    for fault in [ServerFault::Hangs, ServerFault::HangsPredictions] {
        let finished = Deployment::of(Server::with_fault_after(3, fault))
            .without_clients()
            .run()
            .await;
        // The requests of 3 s and 4 s time out 2 s later. No observation waits longer than one interval.
        assert_rolled_back(
            &finished,
            "bake, after 6 s: of the deployer's own requests, ",
        );
        assert_eq!(observations(&finished), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn hanging_own_requests_fail_without_delaying_observations() {
    let candidate = Server {
        reports_counters: false,
        ..Server::with_fault_after(0, ServerFault::HangsForClients)
    };
    let finished = Deployment::of(candidate)
        .without_clients()
        .without_request_log()
        .run()
        .await;
    // The own requests of 1 s and 2 s time out 2 s after their turn.
    assert_rolled_back(&finished, "bake, after 5 s: ");
    finished.assert_outcome(Phase::RolledBack, "requests failed (100.0 %");
    assert_eq!(observations(&finished), 6);
}

#[tokio::test(start_paused = true)]
async fn own_requests_are_held_to_answers_of_golden_gate() {
    let finished = Deployment::of(Server::with_fault_after(2, ServerFault::PredictsWrongLabel))
        .with_gates(&[GateName::Golden])
        .without_clients()
        .run()
        .await;
    assert_rolled_back(&finished, "requests failed (");
    finished.assert_outcome(Phase::RolledBack, "(last: it answered \"bad\" to input ");
    finished.assert_outcome(
        Phase::RolledBack,
        ", and answered \"good\" in the gate golden)",
    );
    assert!(observations(&finished) <= 5, "{}", observations(&finished));
}

#[tokio::test(start_paused = true)]
async fn own_requests_are_held_to_first_answers_without_golden_gate() {
    // All 100 inputs are answered within 5 s.
    let finished = Deployment::of(Server::with_fault_after(5, ServerFault::PredictsWrongLabel))
        .without_request_log()
        .run()
        .await;
    assert_rolled_back(&finished, "requests failed (");
    finished.assert_outcome(Phase::RolledBack, ", and answered \"good\" before)");
}

#[tokio::test(start_paused = true)]
async fn falling_uptime_rolls_back() {
    let finished = Deployment::of(Server::with_fault_after(4, ServerFault::Restarted))
        .run()
        .await;
    assert_rolled_back(&finished, "so it crashed and was started again");
}

#[tokio::test(start_paused = true)]
async fn candidate_is_rolled_back_with_too_few_requests() {
    let mut deployment = Deployment::of(Server::good()).without_clients();
    deployment.settings.bake.min_requests = 1_000_000;
    let finished = deployment.run().await;
    assert_rolled_back(&finished, "are needed to judge");
    // The bake of 10 s was extended twice.
    assert_eq!(observations(&finished), 31);
}

#[tokio::test(start_paused = true)]
async fn own_requests_find_failures_when_log_is_unreadable() {
    let candidate = Server {
        reports_counters: false,
        ..Server::with_fault_after(0, ServerFault::FailsClients)
    };
    // The log is read twice before the switch, and never again.
    let finished = Deployment::of(candidate)
        .failing_calls(
            2..usize::MAX,
            |call| *call == Call::ReadLog,
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(&finished, "requests failed (100.0 %");
}

#[tokio::test(start_paused = true)]
async fn own_requests_find_failures_that_nginx_does_not_log() {
    let candidate = Server {
        reports_counters: false,
        ..Server::with_fault_after(0, ServerFault::FailsClients)
    };
    let mut deployment = Deployment::of(candidate);
    deployment.state.writes_log = false;
    assert_rolled_back(
        &deployment.run().await,
        "of the deployer's own requests, 25 of 82 requests failed",
    );
}

#[tokio::test(start_paused = true)]
async fn unreadable_log_at_the_switch_is_tolerated() {
    let finished = Deployment::of(Server::good())
        .failing_calls(1..2, |call| *call == Call::ReadLog, CallFault::Before)
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "baked for 10 s");
}

#[tokio::test(start_paused = true)]
async fn failed_check_in_the_last_second_prolongs_the_bake() {
    let tenth_observation = CHECKS_BEFORE_BAKE + 9;
    let finished = Deployment::of(Server::good())
        .failing_calls(
            tenth_observation..usize::MAX,
            |call| *call == Call::Health(Target::Server(CANDIDATE)),
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(&finished, "bake, after 11 s: 3 checks in a row failed");
}

#[tokio::test(start_paused = true)]
async fn switch_is_undone_when_it_fails_after_traffic_moved() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::SwitchTo(CANDIDATE),
            CallFault::After,
        )
        .run()
        .await;
    assert_rolled_back(&finished, "SwitchTo(Green) failed");
}

#[tokio::test(start_paused = true)]
async fn candidate_is_rolled_back_when_it_cannot_become_fit() {
    for fault in [CallFault::Before, CallFault::After] {
        let finished = Deployment::of(Server::good())
            .failing_calls(ALWAYS, |call| *call == Call::SetFit(CANDIDATE, true), fault)
            .run()
            .await;
        assert_rolled_back(&finished, "SetFit(Green, true) failed");
    }
}

#[tokio::test(start_paused = true)]
async fn rollback_retries_failed_health_check_of_old_color() {
    let finished = Deployment::of(Server::with_fault_after(4, ServerFault::Exited))
        .failing_calls(
            1..3,
            |call| *call == Call::Health(Target::Server(OLD)),
            CallFault::Before,
        )
        .run()
        .await;
    assert_rolled_back(&finished, "it stopped");
}
