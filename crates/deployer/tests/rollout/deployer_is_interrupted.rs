//! Recovery of deployments whose deployer was killed.

use std::{path::Path, time::Duration};

use deployer::{
    color::Color,
    deployment::{phase::Phase, plan::Plan, recover::Recovery},
    ports::{Service, Target},
    state::journal::Journal,
};
use proptest::prelude::*;

use crate::{
    deployment::{CANDIDATE, Deployment, InterruptedDeployment, OLD, plan},
    fake_ports::{FakePorts, State},
    faults::CallFault,
    port_fails::on_virtual_time,
    server::{Server, ServerFault},
    trace::Call,
};

/// Records that a deployment reached this phase, as its deployer would.
async fn record(fake_ports: &FakePorts, state: &Path, plan: &Plan, phase: Phase) {
    let ports = fake_ports.ports(state, true);
    let journal = Journal::lock(&ports, "deploy v2").await.expect("a lock");
    let recorded = journal.record_phase(plan, phase, None).await;
    recorded.expect("an entry");
}

/// A deployment that was interrupted after the journal recorded `phase`.
async fn interrupted_in(phase: Phase, state: State) -> InterruptedDeployment {
    let directory = tempfile::tempdir().expect("a directory for the journal");
    let fake_ports = FakePorts::new(state);
    record(&fake_ports, directory.path(), &plan(), phase).await;
    InterruptedDeployment {
        fake_ports,
        outcome: None,
        took: Duration::ZERO,
        directory,
    }
}

#[tokio::test(start_paused = true)]
async fn recover_changes_nothing_after_a_finished_deployment() {
    for phase in [
        Phase::Promoted,
        Phase::Refused,
        Phase::RolledBack,
        Phase::Halted,
    ] {
        let interrupted = interrupted_in(phase, State::new(Server::good())).await;
        interrupted.recover().await.unwrap();
        assert_eq!(interrupted.last_entry().unwrap().phase, phase);
        assert!(!interrupted.fake_ports.lock().trace.changed_anything());
    }
}

#[tokio::test(start_paused = true)]
async fn recover_keeps_traffic_on_a_proven_candidate() {
    let mut state = State::new(Server::good());
    state.move_traffic_to(CANDIDATE);
    let interrupted = interrupted_in(Phase::Switched, state).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(interrupted.recover().await.unwrap(), Recovery::Fine);
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Promoted);
    let state = interrupted.fake_ports.lock();
    assert_eq!(state.active, CANDIDATE);
    assert_eq!(state.fit, [OLD, CANDIDATE]);
}

#[tokio::test(start_paused = true)]
async fn recover_rolls_back_an_unproven_candidate() {
    for phase in [Phase::Validated, Phase::Switched] {
        let mut state = State::new(Server::good());
        state.move_traffic_to(CANDIDATE);
        state.fit = vec![OLD];
        let interrupted = interrupted_in(phase, state).await;
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(
            interrupted.recover().await.unwrap(),
            Recovery::RolledBack(OLD)
        );
        assert_eq!(interrupted.last_entry().unwrap().phase, Phase::RolledBack);
        assert_eq!(interrupted.fake_ports.lock().active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_recovery_still_records_that_traffic_moved() {
    let mut state = State::new(Server::good());
    state.move_traffic_to(CANDIDATE);
    state.fit = vec![OLD];
    let interrupted = interrupted_in(Phase::Validated, state).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    // The recovery journals `Switched` before it moves traffic back, so the next recovery knows that traffic moved.
    interrupted
        .recover_and_kill_after(|call| *call == Call::SwitchTo(OLD))
        .await;
    assert_eq!(interrupted.fake_ports.lock().active, OLD);
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Switched);
    interrupted.recover().await.unwrap();
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::RolledBack);
}

#[tokio::test(start_paused = true)]
async fn recover_keeps_traffic_on_untouched_standby() {
    let mut state = State::new(Server::good());
    state.move_traffic_to(CANDIDATE);
    let interrupted = interrupted_in(Phase::Planned, state).await;
    assert_eq!(interrupted.recover().await.unwrap(), Recovery::Fine);
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Refused);
    let state = interrupted.fake_ports.lock();
    assert_eq!(state.active, CANDIDATE);
    assert_eq!(state.trace.count(&Call::SwitchTo(OLD)), 0);
}

#[tokio::test(start_paused = true)]
async fn recover_moves_traffic_back_from_an_untested_candidate() {
    for phase in [Phase::Starting, Phase::Healthy] {
        let mut state = State::new(Server::good());
        state.move_traffic_to(CANDIDATE);
        let interrupted = interrupted_in(phase, state).await;
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(
            interrupted.recover().await.unwrap(),
            Recovery::RolledBack(OLD)
        );
        assert_eq!(interrupted.last_entry().unwrap().phase, Phase::RolledBack);
        let state = interrupted.fake_ports.lock();
        assert_eq!(state.active, OLD);
        assert_eq!(state.fit, [OLD]);
        let at = |call| state.trace.position(&call);
        assert!(at(Call::SwitchTo(OLD)) < at(Call::Stop(Service::Server(CANDIDATE))));
    }
}

#[tokio::test(start_paused = true)]
async fn recover_halts_when_only_an_untested_candidate_is_healthy() {
    for phase in [Phase::Starting, Phase::Healthy] {
        let mut state = State::new(Server::good());
        state.move_traffic_to(CANDIDATE);
        state.blue.fault = ServerFault::Unhealthy;
        let interrupted = interrupted_in(phase, state).await;
        tokio::time::advance(Duration::from_mins(1)).await;
        let recovery = interrupted.recover().await.unwrap();
        assert!(matches!(recovery, Recovery::Halted(_)), "{recovery:?}");
        assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Halted);
        let state = interrupted.fake_ports.lock();
        assert_eq!(state.active, CANDIDATE);
        let stopped = Call::Stop(Service::Server(CANDIDATE));
        assert_eq!(state.trace.count(&stopped), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_recovery_never_promotes_an_untested_fit_candidate() {
    for phase in [Phase::Starting, Phase::Healthy, Phase::Validated] {
        let mut state = State::new(Server::good());
        state.move_traffic_to(CANDIDATE);
        let interrupted = interrupted_in(phase, state).await;
        tokio::time::advance(Duration::from_mins(1)).await;
        interrupted
            .recover_and_kill_after(|call| *call == Call::Health(Target::Server(OLD)))
            .await;
        assert_eq!(interrupted.fake_ports.lock().active, CANDIDATE);
        assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Switched);
        assert_eq!(
            interrupted.recover().await.unwrap(),
            Recovery::RolledBack(OLD)
        );
        assert_eq!(interrupted.fake_ports.lock().active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn recover_completes_a_killed_rollback() {
    let mut state = State::new(Server::good());
    state.fit = vec![OLD];
    let interrupted = interrupted_in(Phase::Switched, state).await;
    interrupted.recover().await.unwrap();
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::RolledBack);
}

#[tokio::test(start_paused = true)]
async fn recover_restores_fit_flag_of_untouched_standby() {
    for (was_fit, fit) in [(true, vec![OLD, CANDIDATE]), (false, vec![OLD])] {
        let mut state = State::new(Server::good());
        state.fit = vec![OLD];
        let interrupted = interrupted_in(Phase::Planned, state).await;
        let plan = Plan {
            idle_was_fit: was_fit,
            ..plan()
        };
        let state = interrupted.directory.path();
        record(&interrupted.fake_ports, state, &plan, Phase::Planned).await;
        interrupted.recover().await.unwrap();
        assert_eq!(interrupted.fake_ports.lock().fit, fit);
    }
}

#[tokio::test(start_paused = true)]
async fn recover_bakes_again_with_on_interrupt_continue() {
    let mut state = State::new(Server::good());
    state.green = Server::good().started("v2");
    state.fit = vec![OLD];
    state.move_traffic_to(CANDIDATE);
    let interrupted = interrupted_in(Phase::Switched, state).await;
    tokio::time::advance(Duration::from_mins(1)).await;
    let outcome = interrupted.resume().await;
    assert_eq!(outcome.phase, Phase::Promoted, "{}", outcome.reason);
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Promoted);
    assert!(interrupted.fake_ports.lock().fit.contains(&CANDIDATE));
}

#[tokio::test(start_paused = true)]
async fn recover_halts_when_old_color_is_unhealthy() {
    let mut state = State::new(Server::good());
    state.move_traffic_to(CANDIDATE);
    state.fit = vec![OLD];
    state.blue.fault = ServerFault::Unhealthy;
    let interrupted = interrupted_in(Phase::Switched, state).await;
    let Recovery::Halted(reason) = interrupted.recover().await.unwrap() else {
        panic!("the recovery did not halt");
    };
    assert!(reason.contains("blue is unhealthy too"), "{reason}");
    assert!(reason.contains("`deployer switch COLOR`"), "{reason}");
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Halted);
    assert_eq!(interrupted.fake_ports.lock().active, CANDIDATE);
}

proptest! {
    #[test]
    fn killed_deployer_leaves_traffic_on_a_proven_release(
        call_number in 0_usize..90,
        side in prop::sample::select(vec![CallFault::Before, CallFault::After]),
        failing_after in prop::option::of(0_u64..12),
        without_clients in any::<bool>(),
    ) {
        on_virtual_time(async move {
            let candidate = failing_after.map_or_else(Server::good, |seconds| {
                Server::with_fault_after(seconds, ServerFault::FailsPredictions)
            });
            let mut deployment = Deployment::of(candidate);
            deployment.state.faults.kill_at = Some((call_number, side));
            if without_clients {
                deployment = deployment.without_clients();
            }
            let interrupted = deployment.run_to_end_or_kill().await;
            let before = interrupted.last_entry().map(|entry| entry.phase);
            interrupted.recover().await.expect("the old color is healthy");

            let after = interrupted.last_entry().map(|entry| entry.phase);
            let state = interrupted.fake_ports.lock();
            state.trace.assert_invariants(&plan());
            let stops = |color| state.trace.count(&Call::Stop(Service::Server(color)));
            match before {
                Some(phase) if phase.is_end() => assert_eq!(after, before),
                Some(Phase::Switched) => {
                    assert!(matches!(after, Some(Phase::RolledBack | Phase::Promoted)), "{after:?}");
                }
                _ => assert!(matches!(after, Some(Phase::Refused | Phase::RolledBack)), "{after:?}"),
            }
            let promoted = after == Some(Phase::Promoted);
            assert_eq!(state.active, if promoted { CANDIDATE } else { OLD });
            assert_eq!(stops(OLD), 0);
            for color in Color::BOTH {
                let started = state.trace.count(&Call::Start(color, "v2".to_owned()));
                assert_eq!(started, usize::from(color == CANDIDATE && started > 0));
            }
        });
    }
}
