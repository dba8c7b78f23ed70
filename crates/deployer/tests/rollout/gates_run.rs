//! The gates, one candidate for each that fails it and nothing else.

use std::time::Duration;

use deployer::{
    config::{GateName, OnInconclusiveGate},
    deployment::phase::Phase,
    evidence::verdict::Conclusion,
};

use crate::{
    deployment::{ALWAYS, Deployment, Ended},
    history::{Call, Happened},
    script::{Fault, Which},
    server::{Server, Trouble},
};

const ALL: [GateName; 9] = [
    GateName::Identity,
    GateName::Reachable,
    GateName::Smoke,
    GateName::Golden,
    GateName::Agreement,
    GateName::Load,
    GateName::Comparison,
    GateName::Headroom,
    GateName::Shadow,
];

/// What was concluded before the switch.
fn findings(ended: &Ended) -> Vec<(&'static str, Conclusion)> {
    let judged = ended
        .history
        .0
        .iter()
        .filter_map(|moment| match moment.happened {
            Happened::Judged(gate, conclusion) => Some((gate, conclusion)),
            _ => None,
        });
    judged
        .filter(|(gate, _)| !["health", "bake"].contains(gate))
        .collect()
}

/// It passed every gate before `gate`, which found this.
fn assert_stopped_by(ended: &Ended, gate: &str, conclusion: Conclusion, words: &str) {
    ended.assert(Phase::Refused, &format!("{gate}: "));
    ended.assert(Phase::Refused, words);
    let findings = findings(ended);
    let (last, before) = findings.split_last().expect("some gate was asked");
    assert_eq!(*last, (gate, conclusion));
    assert!(
        before
            .iter()
            .all(|(_, conclusion)| *conclusion == Conclusion::Pass),
        "{before:?}"
    );
}

fn everything(candidate: Server) -> Deployment {
    let mut deployment = Deployment::of(candidate).asking(&ALL);
    deployment.settings.agreement.min_agreement = 0.5;
    deployment
}

#[tokio::test(start_paused = true)]
async fn good_release_passes_every_gate_in_order() {
    let mut order = ALL.to_vec();
    order.reverse();
    let mut deployment = everything(Server::good());
    deployment.settings.gates.run = order;
    let ended = deployment.run().await;
    ended.assert(Phase::Promoted, "baked for 10 s");
    let wanted = [
        "identity",
        "reachable",
        "smoke",
        "golden",
        "agreement",
        "load",
        "comparison",
        "headroom",
        "shadow",
    ];
    assert_eq!(
        findings(&ended),
        wanted.map(|gate| (gate, Conclusion::Pass))
    );
}

#[tokio::test(start_paused = true)]
async fn golden_gate_refuses_wrong_release() {
    let ended = everything(Server::with(Trouble::IsWrong)).run().await;
    assert_stopped_by(
        &ended,
        "golden",
        Conclusion::Fail,
        "right on 0 of 100 inputs",
    );
}

#[tokio::test(start_paused = true)]
async fn agreement_gate_refuses_below_min_agreement() {
    let mut gates = ALL.to_vec();
    gates.retain(|gate| *gate != GateName::Golden);
    let ended = everything(Server::with(Trouble::IsWrong))
        .asking(&gates)
        .run()
        .await;
    assert_stopped_by(
        &ended,
        "agreement",
        Conclusion::Fail,
        "the same label as the active release on 0 of 100",
    );
}

#[tokio::test(start_paused = true)]
async fn load_gate_refuses_release_that_breaks_under_load() {
    let ended = everything(Server::with(Trouble::FailsUnderLoad))
        .run()
        .await;
    assert_stopped_by(
        &ended,
        "load",
        Conclusion::Fail,
        "100 of 1000 requests failed (10.0 %, at most 1.0 % allowed); status 503: 100",
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_release_is_stopped_by_the_comparison() {
    let ended = everything(Server::with(Trouble::IsSlow(20))).run().await;
    assert_stopped_by(
        &ended,
        "comparison",
        Conclusion::Fail,
        "p50 20.00 times the active release's 10.0 ms",
    );
}

#[tokio::test(start_paused = true)]
async fn headroom_gate_refuses_release_near_router_timeout() {
    let mut deployment = everything(Server::with(Trouble::StallsUnderLoad));
    deployment.settings.load.max_p99 = Duration::from_mins(2);
    let ended = deployment.run().await;
    assert_stopped_by(
        &ended,
        "headroom",
        Conclusion::Fail,
        "is not below the router's proxy_read_timeout, 120 s",
    );
}

#[tokio::test(start_paused = true)]
async fn shadow_gate_refuses_release_that_fails_client_requests() {
    let ended = everything(Server::with(Trouble::FailsClients)).run().await;
    assert_stopped_by(&ended, "shadow", Conclusion::Fail, "of copies, ");
    assert_eq!(ended.count(&Call::SetShadow(true)), 1);
    assert!(!ended.left_shadow, "copies were left on");
}

#[tokio::test(start_paused = true)]
async fn inconclusive_gate_refuses_unless_settings_proceed() {
    let mut refused = everything(Server::good());
    refused.settings.shadow.min_requests = 1_000_000;
    assert_stopped_by(
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
        .assert(Phase::Promoted, "baked for 10 s");
}

/// Goes on where a question stays open.
fn proceeding() -> Deployment {
    let mut deployment = everything(Server::good());
    deployment.settings.gates.on_inconclusive = OnInconclusiveGate::Proceed;
    deployment
}

#[tokio::test(start_paused = true)]
async fn leftover_copies_end_before_the_switch() {
    let faults: [(Which, Fault); 2] = [
        (|call| *call == Call::SetShadow(false), Fault::Before),
        (|call| *call == Call::SetShadow(true), Fault::After),
    ];
    for (which, fault) in faults {
        let ended = proceeding().failing(0..1, which, fault).run().await;
        ended.assert(Phase::Promoted, "baked for 10 s");
        let shadow = Some(&("shadow", Conclusion::Inconclusive));
        assert_eq!(findings(&ended).last(), shadow);
        assert!(!ended.left_shadow, "copies were left on");
    }
}

#[tokio::test(start_paused = true)]
async fn copies_that_cannot_end_refuse_the_release() {
    let ended = proceeding()
        .failing(
            ALWAYS,
            |call| *call == Call::SetShadow(false),
            Fault::Before,
        )
        .run()
        .await;
    ended.assert(Phase::Refused, "SetShadow(false) failed");
    assert!(ended.left_shadow);
    assert!(ended.history.notes().contains(&"SetShadow(false) failed"));
}

#[tokio::test(start_paused = true)]
async fn slow_release_is_rolled_back_when_no_gate_caught_it() {
    let mut deployment = Deployment::of(Server::later(1, Trouble::IsSlow(8)));
    // Clients have been served for long enough to tell.
    deployment.state.clients_per_second = 200.0;
    let ended = deployment.run().await;
    ended.assert(Phase::RolledBack, "clients wait longer: p99 80");
    assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
}

#[tokio::test(start_paused = true)]
async fn label_drift_rolls_back() {
    let ended = Deployment::of(Server::later(1, Trouble::IsWrong))
        .run()
        .await;
    ended.assert(
        Phase::RolledBack,
        "the labels differ from those before the switch: bad",
    );
}
