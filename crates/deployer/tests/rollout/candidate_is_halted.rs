//! Deployments that halt: the candidate fails, and traffic cannot move back. A person must act.

use deployer::{deployment::phase::Phase, ports::Service};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, FinishedDeployment, OLD},
    faults::CallFault,
    server::{Server, ServerFault},
    trace::Call,
};

/// Asserts that no server was stopped, and that the reason names the failure, the obstacle, and the next step.
fn assert_halted(finished: &FinishedDeployment, reasons: [&str; 2]) {
    for reason in reasons {
        finished.assert_outcome(Phase::Halted, reason);
    }
    finished.assert_outcome(
        Phase::Halted,
        "repair one color, then `deployer switch COLOR`",
    );
    for color in [OLD, CANDIDATE] {
        assert_eq!(finished.count(&Call::Stop(Service::Server(color))), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_stays_when_both_colors_are_unhealthy() {
    let finished = Deployment::of(Server::with_fault_after(2, ServerFault::FailsClients))
        .interfere_after(
            |call| *call == Call::SwitchTo(CANDIDATE),
            |state| state.blue.fault = ServerFault::Unhealthy,
        )
        .run()
        .await;
    assert_halted(
        &finished,
        [
            "clients receive failures",
            "the rollback failed: blue is unhealthy too: answered 503",
        ],
    );
    assert_eq!(finished.active, CANDIDATE);
    assert_eq!(finished.count(&Call::SwitchTo(OLD)), 0);
}

#[tokio::test(start_paused = true)]
async fn unconfirmed_rollback_halts_the_deployment() {
    for fault in [CallFault::Before, CallFault::After] {
        let finished = Deployment::of(Server::with_fault_after(2, ServerFault::Exited))
            .failing_calls(ALWAYS, |call| *call == Call::SwitchTo(OLD), fault)
            .run()
            .await;
        assert_halted(
            &finished,
            [
                "it stopped: exit code 3",
                "the rollback failed: SwitchTo(Blue) failed",
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn silent_router_halts_the_deployment_after_failed_switch() {
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| matches!(call, Call::SwitchTo(_)),
            CallFault::After,
        )
        .failing_calls(
            1..usize::MAX,
            |call| *call == Call::Active,
            CallFault::Before,
        )
        .run()
        .await;
    assert_halted(
        &finished,
        ["SwitchTo(Green) failed", "SwitchTo(Blue) failed"],
    );
}

#[tokio::test(start_paused = true)]
async fn deployment_halts_when_fit_flag_stays_on_the_candidate() {
    // At the end of the bake the flag is set although the call fails. The rollback then cannot remove it.
    let finished = Deployment::of(Server::good())
        .failing_calls(
            ALWAYS,
            |call| *call == Call::SetFit(CANDIDATE, true),
            CallFault::After,
        )
        .failing_calls(
            1..usize::MAX,
            |call| *call == Call::SetFit(CANDIDATE, false),
            CallFault::Before,
        )
        .run()
        .await;
    assert_halted(
        &finished,
        [
            "SetFit(Green, true) failed",
            "traffic is back on blue, but green may still stand in for it",
        ],
    );
    assert_eq!(finished.active, OLD);
}
