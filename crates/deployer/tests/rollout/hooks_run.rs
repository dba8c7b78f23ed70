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
async fn one_that_fails_before_the_switch_refuses() {
    for phase in [
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
    ] {
        let ended = with_failing_hook(HookPoint::Before, phase).await;
        ended.assert(Phase::Refused, "the hook has its reasons");
        assert_eq!(ended.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_before_the_promotion_rolls_back() {
    let ended = with_failing_hook(HookPoint::Before, Phase::Promoted).await;
    ended.assert(Phase::RolledBack, "the hook has its reasons");
}

#[tokio::test(start_paused = true)]
async fn one_that_fails_after_a_phase_is_worth_a_note() {
    for phase in [
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
        Phase::Promoted,
    ] {
        let ended = with_failing_hook(HookPoint::After, phase).await;
        assert_eq!(ended.outcome.phase, Phase::Promoted);
        assert_eq!(ended.history.notes(), ["the hook has its reasons"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fix_is_shipped_although_the_active_color_is_down() {
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
async fn a_standby_that_answers_every_client_is_not_replaced() {
    let mut deployment = Deployment::of(Server::good());
    deployment.active_down = true;
    deployment.state.blue.trouble = Trouble::Exited;
    let ended = deployment.run_with_interference().await;
    ended.assert(Phase::Refused, "`deployer switch green` first");
    assert!(!ended.history.touched_anything(), "{:#?}", ended.history);
}

#[tokio::test(start_paused = true)]
async fn an_active_color_that_is_well_is_compared_with_whatever_is_said_of_it() {
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
