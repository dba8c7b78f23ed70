//! Hooks around the phases, and deployments with `--active-down`.

use deployer::{
    config::GateName, deployment::phase::Phase, evidence::verdict::Conclusion, ports::HookPoint,
};

use crate::{
    deployment::{CANDIDATE, Deployment, FinishedDeployment, OLD},
    server::{Server, ServerFault},
    trace::{TraceEntry, TraceEvent},
};

/// Deploys a good release with a hook that fails here.
async fn deploy_with_failing_hook(point: HookPoint, phase: Phase) -> FinishedDeployment {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.failing_hook = Some((point, phase));
    deployment.run().await
}

#[tokio::test(start_paused = true)]
async fn failing_hook_refuses_the_release_before_the_switch() {
    for phase in [
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
    ] {
        let finished = deploy_with_failing_hook(HookPoint::Before, phase).await;
        finished.assert_outcome(Phase::Refused, "the hook fails");
        assert_eq!(finished.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_hook_rolls_back_before_promotion() {
    let finished = deploy_with_failing_hook(HookPoint::Before, Phase::Promoted).await;
    finished.assert_outcome(Phase::RolledBack, "the hook fails");
}

#[tokio::test(start_paused = true)]
async fn failing_hook_is_only_noted_after_a_phase() {
    for phase in [
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
        Phase::Promoted,
    ] {
        let finished = deploy_with_failing_hook(HookPoint::After, phase).await;
        assert_eq!(finished.outcome.phase, Phase::Promoted);
        assert_eq!(finished.trace.notes(), ["the hook fails"]);
    }
}

#[tokio::test(start_paused = true)]
async fn active_down_deploys_while_active_color_is_down() {
    let mut deployment = Deployment::of(Server::good()).with_gates(&[
        GateName::Identity,
        GateName::Golden,
        GateName::Agreement,
        GateName::Comparison,
    ]);
    deployment.active_down = true;
    deployment.state.blue.fault = ServerFault::Exited;
    deployment.state.fit = Vec::new();
    let finished = deployment.run_with_interference().await;
    assert_eq!(
        finished.outcome.phase,
        Phase::Promoted,
        "{}",
        finished.outcome.reason
    );
    assert_eq!(finished.active, CANDIDATE);
    let conclusion = |name| {
        let found = finished.trace.0.iter().find_map(|entry| match entry.event {
            TraceEvent::GateFinished(gate, conclusion) if gate == name => Some(conclusion),
            _ => None,
        });
        found.expect("a conclusion of the gate")
    };
    assert_eq!(conclusion("golden"), Conclusion::Pass);
    assert_eq!(conclusion("agreement"), Conclusion::Skipped);
    assert_eq!(conclusion("comparison"), Conclusion::Skipped);
}

#[tokio::test(start_paused = true)]
async fn active_down_does_not_replace_a_serving_standby() {
    let mut deployment = Deployment::of(Server::good());
    deployment.active_down = true;
    deployment.state.blue.fault = ServerFault::Exited;
    let finished = deployment.run_with_interference().await;
    finished.assert_outcome(Phase::Refused, "`deployer switch green` first");
    assert!(!finished.trace.changed_anything(), "{:#?}", finished.trace);
}

#[tokio::test(start_paused = true)]
async fn active_down_still_compares_with_healthy_active_color() {
    let mut deployment = Deployment::of(Server::good()).with_gates(&[GateName::Agreement]);
    deployment.active_down = true;
    let finished = deployment.run().await;
    assert_eq!(
        finished.outcome.phase,
        Phase::Promoted,
        "{}",
        finished.outcome.reason
    );
    let agreement = |entry: &TraceEntry| match entry.event {
        TraceEvent::GateFinished("agreement", conclusion) => Some(conclusion),
        _ => None,
    };
    let conclusion = finished.trace.0.iter().find_map(agreement);
    assert_eq!(conclusion, Some(Conclusion::Pass));
    let notes = finished.trace.notes();
    assert!(notes[0].contains("not down"), "{notes:?}");
}
