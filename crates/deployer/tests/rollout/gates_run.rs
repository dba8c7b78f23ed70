//! The gates: for each gate a candidate that fails only this gate.

use std::time::Duration;

use deployer::{
    config::{GateName, OnInconclusiveGate},
    deployment::phase::Phase,
    evidence::verdict::Conclusion,
};

use crate::{
    deployment::{ALWAYS, Deployment, FinishedDeployment},
    faults::{CallFault, CallMatcher},
    server::{Server, ServerFault},
    trace::{Call, TraceEvent},
};

const ALL_GATES: [GateName; 10] = [
    GateName::Identity,
    GateName::Reachable,
    GateName::Smoke,
    GateName::Golden,
    GateName::Agreement,
    GateName::Warm,
    GateName::Load,
    GateName::Comparison,
    GateName::Headroom,
    GateName::Shadow,
];

/// The conclusions of the gates before the switch.
fn conclusions(finished: &FinishedDeployment) -> Vec<(&'static str, Conclusion)> {
    let gates = finished
        .trace
        .0
        .iter()
        .filter_map(|entry| match entry.event {
            TraceEvent::GateFinished(gate, conclusion) => Some((gate, conclusion)),
            _ => None,
        });
    gates
        .filter(|(gate, _)| !["health", "bake"].contains(gate))
        .collect()
}

/// Asserts that the candidate passed every gate before `gate`, which refused it with this conclusion.
fn assert_refused_by(
    finished: &FinishedDeployment,
    gate: &str,
    conclusion: Conclusion,
    reason: &str,
) {
    finished.assert_outcome(Phase::Refused, &format!("{gate}: "));
    finished.assert_outcome(Phase::Refused, reason);
    let conclusions = conclusions(finished);
    let (last, before) = conclusions.split_last().expect("a gate ran");
    assert_eq!(*last, (gate, conclusion));
    assert!(
        before
            .iter()
            .all(|(_, conclusion)| *conclusion == Conclusion::Pass),
        "{before:?}"
    );
}

fn with_all_gates(candidate: Server) -> Deployment {
    let mut deployment = Deployment::of(candidate).with_gates(&ALL_GATES);
    deployment.settings.agreement.min_agreement = 0.5;
    deployment
}

#[tokio::test(start_paused = true)]
async fn good_release_passes_every_gate_in_order() {
    let mut order = ALL_GATES.to_vec();
    order.reverse();
    let mut deployment = with_all_gates(Server::good());
    deployment.settings.gates.run = order;
    let finished = deployment.run().await;
    finished.assert_outcome(Phase::Promoted, "baked for 10 s");
    let expected = [
        "identity",
        "reachable",
        "smoke",
        "golden",
        "agreement",
        "warm",
        "load",
        "comparison",
        "headroom",
        "shadow",
    ];
    assert_eq!(
        conclusions(&finished),
        expected.map(|gate| (gate, Conclusion::Pass))
    );
}

#[tokio::test(start_paused = true)]
async fn golden_gate_refuses_wrong_release() {
    let finished = with_all_gates(Server::with_fault(ServerFault::PredictsWrongLabel))
        .run()
        .await;
    assert_refused_by(
        &finished,
        "golden",
        Conclusion::Fail,
        "right on 0 of 100 inputs",
    );
}

#[tokio::test(start_paused = true)]
async fn agreement_gate_refuses_below_min_agreement() {
    let mut gates = ALL_GATES.to_vec();
    gates.retain(|gate| *gate != GateName::Golden);
    let finished = with_all_gates(Server::with_fault(ServerFault::PredictsWrongLabel))
        .with_gates(&gates)
        .run()
        .await;
    assert_refused_by(
        &finished,
        "agreement",
        Conclusion::Fail,
        "the same label as the active release on 0 of 100",
    );
}

#[tokio::test(start_paused = true)]
async fn load_gate_refuses_release_that_breaks_under_load() {
    let finished = with_all_gates(Server::with_fault(ServerFault::FailsUnderLoad))
        .run()
        .await;
    assert_refused_by(
        &finished,
        "load",
        Conclusion::Fail,
        "100 of 1000 requests failed (10.0 %, at most 1.0 % allowed); status 503: 100",
    );
}

#[tokio::test(start_paused = true)]
async fn load_gate_stops_when_clients_of_active_color_wait_too_long() {
    let finished = with_all_gates(Server::with_fault(ServerFault::SlowsOtherUnderLoad))
        .run()
        .await;
    assert_refused_by(
        &finished,
        "load",
        Conclusion::Inconclusive,
        // Clients send 50 requests per second, and the gate reads the log every 0.5 s.
        "because it slows clients down: 25 of 25 requests to blue took longer than 1000 ms",
    );
}

#[tokio::test(start_paused = true)]
async fn comparison_gate_refuses_slow_release() {
    let finished = with_all_gates(Server::with_fault(ServerFault::Slow(20)))
        .run()
        .await;
    assert_refused_by(
        &finished,
        "comparison",
        Conclusion::Fail,
        "p50 20.00 times the active release's 10.0 ms",
    );
}

#[tokio::test(start_paused = true)]
async fn headroom_gate_refuses_release_near_router_timeout() {
    let mut deployment = with_all_gates(Server::with_fault(ServerFault::StallsUnderLoad));
    deployment.settings.load.max_p99 = Duration::from_mins(2);
    let finished = deployment.run().await;
    assert_refused_by(
        &finished,
        "headroom",
        Conclusion::Fail,
        "is not below the router's proxy_read_timeout, 120 s",
    );
}

#[tokio::test(start_paused = true)]
async fn shadow_gate_refuses_release_that_fails_client_requests() {
    let finished = with_all_gates(Server::with_fault(ServerFault::FailsClients))
        .run()
        .await;
    assert_refused_by(&finished, "shadow", Conclusion::Fail, "of copies, ");
    assert_eq!(finished.count(&Call::SetShadow(true)), 1);
    assert!(!finished.shadow_is_on, "the router still copies requests");
}

#[tokio::test(start_paused = true)]
async fn inconclusive_gate_refuses_unless_settings_proceed() {
    let mut refused = with_all_gates(Server::good());
    refused.settings.shadow.min_requests = 1_000_000;
    assert_refused_by(
        &refused.run().await,
        "shadow",
        Conclusion::Inconclusive,
        "at least 1000000 are needed",
    );
    let mut proceeding = proceeding();
    proceeding.settings.shadow.min_requests = 1_000_000;
    proceeding
        .run()
        .await
        .assert_outcome(Phase::Promoted, "baked for 10 s");
}

/// A good release with `gates.on_inconclusive = "proceed"`.
fn proceeding() -> Deployment {
    let mut deployment = with_all_gates(Server::good());
    deployment.settings.gates.on_inconclusive = OnInconclusiveGate::Proceed;
    deployment
}

#[tokio::test(start_paused = true)]
async fn leftover_copies_end_before_the_switch() {
    let faults: [(CallMatcher, CallFault); 2] = [
        (|call| *call == Call::SetShadow(false), CallFault::Before),
        (|call| *call == Call::SetShadow(true), CallFault::After),
    ];
    for (matcher, fault) in faults {
        let finished = proceeding().failing_calls(0..1, matcher, fault).run().await;
        finished.assert_outcome(Phase::Promoted, "baked for 10 s");
        let shadow = Some(&("shadow", Conclusion::Inconclusive));
        assert_eq!(conclusions(&finished).last(), shadow);
        assert!(!finished.shadow_is_on, "the router still copies requests");
    }
}

#[tokio::test(start_paused = true)]
async fn release_is_refused_when_copies_cannot_end() {
    let finished = proceeding()
        .failing_calls(
            ALWAYS,
            |call| *call == Call::SetShadow(false),
            CallFault::Before,
        )
        .run()
        .await;
    finished.assert_outcome(Phase::Refused, "SetShadow(false) failed");
    assert!(finished.shadow_is_on);
    assert!(finished.trace.notes().contains(&"SetShadow(false) failed"));
}

#[tokio::test(start_paused = true)]
async fn slow_release_is_rolled_back_during_the_bake() {
    let mut deployment = Deployment::of(Server::with_fault_after(1, ServerFault::Slow(8)));
    // Enough client requests before the switch for a comparison of latencies.
    deployment.state.clients_per_second = 200.0;
    let finished = deployment.run().await;
    finished.assert_outcome(Phase::RolledBack, "clients wait longer: p99 80");
    // The previous release was asked first, and answered copies as fast as before.
    finished.assert_outcome(Phase::RolledBack, "with copies of");
    assert!(!finished.shadow_is_on, "the router still copies requests");
    assert!(
        finished.took < Duration::from_secs(15),
        "{:?}",
        finished.took
    );
}

#[tokio::test(start_paused = true)]
async fn release_is_rolled_back_after_label_drift() {
    let finished = Deployment::of(Server::with_fault_after(1, ServerFault::PredictsWrongLabel))
        .run()
        .await;
    finished.assert_outcome(
        Phase::RolledBack,
        "the labels differ from those before the switch: bad",
    );
}
