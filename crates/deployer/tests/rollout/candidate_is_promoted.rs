//! Deployments that are promoted.

use std::time::Duration;

use deployer::{
    color::Color,
    deployment::phase::Phase,
    evidence::request::Request,
    ports::{Service, Target},
};

use crate::{
    deployment::{CANDIDATE, Deployment, OLD},
    fake_ports::{answered_attempt, passed_over_at, unanswered_request},
    faults::CallFault,
    server::{Server, ServerFault},
    trace::{Call, TraceEntry, TraceEvent},
};

/// A test request through the router, to the active color.
const PUBLIC: Call = Call::Predict(Target::Public);
/// A test request through the router, to the candidate without its standby.
const CANDIDATE_ONLY: Call = Call::Predict(Target::ThroughRouter(CANDIDATE));

/// Health checks of the candidate before the bake: two until it is healthy, one for `identity`, and one for
/// `reachable`.
const CHECKS_BEFORE_BAKE: usize = 4;

#[tokio::test(start_paused = true)]
async fn good_release_passes_every_phase_and_keeps_traffic() {
    let finished = Deployment::of(Server::good()).run().await;
    finished.assert_outcome(Phase::Promoted, "baked for 10 s: 0 of 5");
    assert_eq!(
        finished.trace.phases(),
        [
            Phase::Planned,
            Phase::Starting,
            Phase::Healthy,
            Phase::Validated,
            Phase::Switched,
            Phase::Promoted,
        ]
    );
    assert_eq!(finished.active, CANDIDATE);
    assert!(
        finished.took < Duration::from_secs(15),
        "{:?}",
        finished.took
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_is_fit_only_after_promotion() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.fit = vec![CANDIDATE];
    let trace = deployment.run().await.trace;
    let at = |call| trace.position(&call).unwrap();

    let start = at(Call::Start(CANDIDATE, "v2".to_owned()));
    let switch = at(Call::SwitchTo(CANDIDATE));
    let set_fit = at(Call::SetFit(CANDIDATE, true));
    assert!(at(Call::SetFit(CANDIDATE, false)) < start);
    assert!(at(Call::SetFit(OLD, true)) < switch);
    assert!(switch < set_fit);
    for entry in &trace.0[start..set_fit] {
        assert_eq!(entry.fit, [OLD], "{entry:?}");
    }
    assert_eq!(trace.last().fit, [OLD, CANDIDATE]);
}

#[tokio::test(start_paused = true)]
async fn identity_and_smoke_run_before_the_switch() {
    let trace = Deployment::of(Server::good()).run().await.trace;
    let switch = trace.position(&Call::SwitchTo(CANDIDATE)).unwrap();
    let before: Vec<_> = trace.0[..switch]
        .iter()
        .filter_map(|entry| match &entry.event {
            TraceEvent::GateFinished(gate, _) => Some(*gate),
            TraceEvent::PortCalled(call, _)
                if *call == Call::Predict(Target::Server(CANDIDATE)) =>
            {
                Some("request")
            }
            _ => None,
        })
        .collect();
    let mut expected = vec!["health", "identity", "reachable"];
    expected.extend(["request"; 10]);
    expected.push("smoke");
    assert_eq!(before, expected);
}

#[tokio::test(start_paused = true)]
async fn switch_event_names_both_colors() {
    let trace = Deployment::of(Server::good()).run().await.trace;
    let moved = TraceEvent::TrafficMoved(OLD, CANDIDATE);
    assert!(trace.0.iter().any(|entry| entry.event == moved));
}

#[tokio::test(start_paused = true)]
async fn promotion_stops_no_server() {
    let finished = Deployment::of(Server::good()).run().await;
    for color in Color::BOTH {
        assert_eq!(finished.count(&Call::Stop(Service::Server(color))), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn logged_client_requests_replace_own_requests() {
    let finished = Deployment::of(Server::good()).run().await;
    let trace = &finished.trace;
    let first_traffic = trace
        .0
        .iter()
        .position(|entry| matches!(entry.event, TraceEvent::BakeObserved(1..)))
        .unwrap();
    let is_own_request = |entry: &TraceEntry| entry.event == TraceEvent::PortCalled(PUBLIC, true);
    assert!(
        !trace.0[first_traffic..].iter().any(is_own_request),
        "{trace:#?}"
    );
    // The observation at the switch finds an empty log, so the deployer sends the requests of one observation.
    assert!(finished.count(&PUBLIC) <= 25, "{trace:#?}");
}

#[tokio::test(start_paused = true)]
async fn quiet_service_is_judged_by_own_requests() {
    let finished = Deployment::of(Server::good()).without_clients().run().await;
    let probes = finished.count(&PUBLIC);
    assert!(probes >= 200, "{probes}");
    finished.assert_outcome(
        Phase::Promoted,
        &format!(
            "0 of {probes} requests failed (0.0 %); own requests were added to the traffic: {probes}"
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn few_failures_are_within_the_limit() {
    let candidate = Server::with_fault_after(0, ServerFault::FailsOneIn(30));
    Deployment::of(candidate)
        .run()
        .await
        .assert_outcome(Phase::Promoted, "baked for 10 s");
}

#[tokio::test(start_paused = true)]
async fn two_consecutive_failed_checks_are_tolerated() {
    let is_candidate_health = |call: &Call| *call == Call::Health(Target::Server(CANDIDATE));
    let first = CHECKS_BEFORE_BAKE;
    let finished = Deployment::of(Server::good())
        .failing_calls(first + 1..first + 3, is_candidate_health, CallFault::Before)
        .failing_calls(first + 4..first + 6, is_candidate_health, CallFault::Before)
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "baked for 10 s");
    // `inspect` is called twice while the candidate starts, once before the switch, and after each failed check.
    let inspections = finished.count(&Call::Inspect(Service::Server(CANDIDATE)));
    assert_eq!(inspections, 2 + 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn failed_check_at_the_end_is_repeated_before_promotion() {
    let is_candidate_health = |call: &Call| *call == Call::Health(Target::Server(CANDIDATE));
    let last = CHECKS_BEFORE_BAKE + 10;
    let finished = Deployment::of(Server::good())
        .failing_calls(last..last + 1, is_candidate_health, CallFault::Before)
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "baked for 11 s");
}

#[tokio::test(start_paused = true)]
async fn failures_logged_before_the_switch_are_ignored() {
    let mut deployment = Deployment::of(Server::good());
    let failed_request = Request {
        attempts: vec![answered_attempt(CANDIDATE, 502)],
        ..unanswered_request(CANDIDATE)
    };
    deployment.state.logged_requests = vec![failed_request; 1_000];
    deployment
        .run()
        .await
        .assert_outcome(Phase::Promoted, "0 of 5");
}

#[tokio::test(start_paused = true)]
async fn requests_passed_over_because_of_previous_release_are_ignored() {
    let passed_over = vec![passed_over_at(0.0); 1_000];
    Deployment::of(Server::good())
        .interfere_after(
            |call| *call == Call::SwitchTo(CANDIDATE),
            |state| state.logged_requests.extend(passed_over),
        )
        .run()
        .await
        .assert_outcome(Phase::Promoted, "0 of 5");
}

#[tokio::test(start_paused = true)]
async fn unreadable_log_is_noted_and_replaced_by_own_requests() {
    let is_log_read = |call: &Call| *call == Call::ReadLog;
    let finished = Deployment::of(Server::good())
        .failing_calls(2..usize::MAX, is_log_read, CallFault::Before)
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "own requests were added");
    assert!(finished.count(&CANDIDATE_ONLY) >= 200);
    let notes = finished.trace.notes();
    assert!(notes.contains(&"ReadLog failed"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn own_requests_and_counters_judge_without_log() {
    let finished = Deployment::of(Server::good())
        .without_request_log()
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "own requests were added");
    assert_eq!(finished.count(&Call::ReadLog), 0);
}

#[tokio::test(start_paused = true)]
async fn own_requests_judge_without_log_and_counters() {
    let candidate = Server {
        reports_counters: false,
        ..Server::good()
    };
    let finished = Deployment::of(candidate).without_request_log().run().await;
    finished.assert_outcome(Phase::Promoted, "own requests were added");
    // The own requests stay near the number that a verdict needs.
    let probes = finished.count(&PUBLIC) + finished.count(&CANDIDATE_ONLY);
    assert!(probes <= 260, "{probes}");
}

#[tokio::test(start_paused = true)]
async fn release_is_promoted_when_log_is_never_readable() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            0..usize::MAX,
            |call| *call == Call::ReadLog,
            CallFault::Before,
        )
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn release_is_promoted_when_log_is_never_written() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.writes_log = false;
    let finished = deployment.run().await;
    finished.assert_outcome(Phase::Promoted, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn server_without_counters_is_judged_by_the_log() {
    let candidate = Server {
        reports_counters: false,
        ..Server::good()
    };
    Deployment::of(candidate)
        .run()
        .await
        .assert_outcome(Phase::Promoted, "baked for 10 s: 0 of 5");
}

#[tokio::test(start_paused = true)]
async fn one_failed_health_check_after_the_switch_is_tolerated() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            0..1,
            |call| *call == Call::Health(Target::Public),
            CallFault::Before,
        )
        .run()
        .await;
    finished.assert_outcome(Phase::Promoted, "0 of ");
}
