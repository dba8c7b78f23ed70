//! Commands of one's own around the phases, and a fix for an active color that is down.

use deployer::{
    config::GateName, deployment::phase::Phase, evidence::verdict::Conclusion, ports::HookPoint,
};

use crate::{
    deployment::{CANDIDATE, Deployment, Ended, OLD},
    history::{Happened, Moment},
    server::{Server, Trouble},
};

async fn with_failing_hook(point: HookPoint, phase: Phase) -> Ended {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.failing_hook = Some((point, phase));
    deployment.run().await
}

#[tokio::test(start_paused = true)]
async fn failing_hook_before_the_switch_refuses() {
    for phase in [
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
    ] {
        let ended = with_failing_hook(HookPoint::Before, phase).await;
        ended.assert(Phase::Refused, "the hook fails");
        assert_eq!(ended.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_hook_before_promotion_rolls_back() {
    let ended = with_failing_hook(HookPoint::Before, Phase::Promoted).await;
    ended.assert(Phase::RolledBack, "the hook fails");
}

#[tokio::test(start_paused = true)]
async fn failing_hook_after_a_phase_is_noted() {
    for phase in [
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
        Phase::Promoted,
    ] {
        let ended = with_failing_hook(HookPoint::After, phase).await;
        assert_eq!(ended.outcome.phase, Phase::Promoted);
        assert_eq!(ended.history.notes(), ["the hook fails"]);
    }
}

#[tokio::test(start_paused = true)]
async fn active_down_deploys_while_active_color_is_down() {
    let mut deployment = Deployment::of(Server::good()).asking(&[
        GateName::Identity,
        GateName::Golden,
        GateName::Agreement,
        GateName::Comparison,
    ]);
    deployment.active_down = true;
    deployment.state.blue.trouble = Trouble::Exited;
    deployment.state.fit = Vec::new();
    let ended = deployment.run_with_interference().await;
    assert_eq!(
        ended.outcome.phase,
        Phase::Promoted,
        "{}",
        ended.outcome.reason
    );
    assert_eq!(ended.active, CANDIDATE);
    let conclusion = |name| {
        let judged = ended
            .history
            .0
            .iter()
            .find_map(|moment| match moment.happened {
                Happened::Judged(gate, conclusion) if gate == name => Some(conclusion),
                _ => None,
            });
        judged.expect("the gate was judged")
    };
    assert_eq!(conclusion("golden"), Conclusion::Pass);
    assert_eq!(conclusion("agreement"), Conclusion::Skipped);
    assert_eq!(conclusion("comparison"), Conclusion::Skipped);
}

#[tokio::test(start_paused = true)]
async fn active_down_does_not_replace_a_serving_standby() {
    let mut deployment = Deployment::of(Server::good());
    deployment.active_down = true;
    deployment.state.blue.trouble = Trouble::Exited;
    let ended = deployment.run_with_interference().await;
    ended.assert(Phase::Refused, "`deployer switch green` first");
    assert!(!ended.history.touched_anything(), "{:#?}", ended.history);
}

#[tokio::test(start_paused = true)]
async fn active_down_still_compares_with_healthy_active_color() {
    let mut deployment = Deployment::of(Server::good()).asking(&[GateName::Agreement]);
    deployment.active_down = true;
    let ended = deployment.run().await;
    assert_eq!(
        ended.outcome.phase,
        Phase::Promoted,
        "{}",
        ended.outcome.reason
    );
    let judged = |moment: &Moment| match moment.happened {
        Happened::Judged("agreement", conclusion) => Some(conclusion),
        _ => None,
    };
    let conclusion = ended.history.0.iter().find_map(judged);
    assert_eq!(conclusion, Some(Conclusion::Pass));
    let notes = ended.history.notes();
    assert!(notes[0].contains("not down"), "{notes:?}");
}
