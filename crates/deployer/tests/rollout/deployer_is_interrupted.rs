//! A deployer that is killed in the middle, and the next run that clears up after it.

use std::time::Duration;

use deployer::{
    color::Color,
    deployment::{phase::Phase, plan::Plan, recover::Recovery},
    ports::{Service, Target},
    state::journal::Journal,
};
use proptest::prelude::*;

use crate::{
    deployment::{CANDIDATE, Deployment, Left, OLD, plan},
    fake_ports::{Scene, State},
    history::Call,
    port_fails::on_virtual_time,
    script::Fault,
    server::{Server, Trouble},
};

fn left_in(phase: Phase, state: State) -> Left {
    let directory = tempfile::tempdir().expect("a directory for the journal");
    let journal = Journal::lock(directory.path(), "deploy v2").expect("a lock");
    journal
        .record_phase(&plan(), phase, None)
        .expect("an entry");
    Left {
        scene: Scene::new(state),
        outcome: None,
        took: Duration::ZERO,
        directory,
    }
}

#[tokio::test(start_paused = true)]
async fn recover_leaves_a_finished_deployment() {
    for phase in [
        Phase::Promoted,
        Phase::Refused,
        Phase::RolledBack,
        Phase::Halted,
    ] {
        let left = left_in(phase, State::new(Server::good()));
        left.recover().await.unwrap();
        assert_eq!(left.last().unwrap().phase, phase);
        assert!(!left.scene.lock().history.touched_anything());
    }
}

#[tokio::test(start_paused = true)]
async fn recover_keeps_traffic_on_a_proven_candidate() {
    let mut state = State::new(Server::good());
    state.give_traffic_to(CANDIDATE);
    let left = left_in(Phase::Switched, state);
    tokio::time::advance(Duration::from_mins(1)).await;
    assert_eq!(left.recover().await.unwrap(), Recovery::Fine);
    assert_eq!(left.last().unwrap().phase, Phase::Promoted);
    let state = left.scene.lock();
    assert_eq!(state.active, CANDIDATE);
    assert_eq!(state.fit, [OLD, CANDIDATE]);
}

#[tokio::test(start_paused = true)]
async fn recover_rolls_back_an_unproven_candidate() {
    for phase in [Phase::Validated, Phase::Switched] {
        let mut state = State::new(Server::good());
        state.give_traffic_to(CANDIDATE);
        state.fit = vec![OLD];
        let left = left_in(phase, state);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(left.recover().await.unwrap(), Recovery::RolledBack(OLD));
        assert_eq!(left.last().unwrap().phase, Phase::RolledBack);
        assert_eq!(left.scene.lock().active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_recovery_still_records_that_traffic_moved() {
    let mut state = State::new(Server::good());
    state.give_traffic_to(CANDIDATE);
    state.fit = vec![OLD];
    let left = left_in(Phase::Validated, state);
    tokio::time::advance(Duration::from_mins(1)).await;
    // Traffic is moved back, and then the deployer is gone: the next one finds what it wrote before.
    left.settle_until(|call| *call == Call::PointAt(OLD)).await;
    assert_eq!(left.scene.lock().active, OLD);
    assert_eq!(left.last().unwrap().phase, Phase::Switched);
    left.recover().await.unwrap();
    assert_eq!(left.last().unwrap().phase, Phase::RolledBack);
}

#[tokio::test(start_paused = true)]
async fn recover_keeps_traffic_that_a_person_moved_to_an_untouched_standby() {
    let mut state = State::new(Server::good());
    state.give_traffic_to(CANDIDATE);
    let left = left_in(Phase::Planned, state);
    assert_eq!(left.recover().await.unwrap(), Recovery::Fine);
    assert_eq!(left.last().unwrap().phase, Phase::Refused);
    let state = left.scene.lock();
    assert_eq!(state.active, CANDIDATE);
    assert_eq!(state.history.count(&Call::PointAt(OLD)), 0);
}

#[tokio::test(start_paused = true)]
async fn recover_returns_traffic_that_a_person_gave_to_an_untested_candidate() {
    for phase in [Phase::Starting, Phase::Healthy] {
        let mut state = State::new(Server::good());
        state.give_traffic_to(CANDIDATE);
        let left = left_in(phase, state);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(left.recover().await.unwrap(), Recovery::RolledBack(OLD));
        assert_eq!(left.last().unwrap().phase, Phase::RolledBack);
        let state = left.scene.lock();
        assert_eq!(state.active, OLD);
        assert_eq!(state.fit, [OLD]);
        let at = |call| state.history.position(&call);
        assert!(at(Call::PointAt(OLD)) < at(Call::Stop(Service::Server(CANDIDATE))));
    }
}

#[tokio::test(start_paused = true)]
async fn recover_leaves_traffic_on_an_untested_candidate_when_old_color_is_sick() {
    for phase in [Phase::Starting, Phase::Healthy] {
        let mut state = State::new(Server::good());
        state.give_traffic_to(CANDIDATE);
        state.blue.trouble = Trouble::Unhealthy;
        let left = left_in(phase, state);
        tokio::time::advance(Duration::from_mins(1)).await;
        let recovery = left.recover().await.unwrap();
        assert!(matches!(recovery, Recovery::Halted(_)), "{recovery:?}");
        assert_eq!(left.last().unwrap().phase, Phase::Halted);
        let state = left.scene.lock();
        assert_eq!(state.active, CANDIDATE);
        let stopped = Call::Stop(Service::Server(CANDIDATE));
        assert_eq!(state.history.count(&stopped), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn killed_recovery_never_promotes_an_untested_candidate_with_a_fit_flag() {
    for phase in [Phase::Starting, Phase::Healthy, Phase::Validated] {
        let mut state = State::new(Server::good());
        state.give_traffic_to(CANDIDATE);
        let left = left_in(phase, state);
        tokio::time::advance(Duration::from_mins(1)).await;
        left.settle_until(|call| *call == Call::Health(Target::Server(OLD)))
            .await;
        assert_eq!(left.scene.lock().active, CANDIDATE);
        assert_eq!(left.last().unwrap().phase, Phase::Switched);
        assert_eq!(left.recover().await.unwrap(), Recovery::RolledBack(OLD));
        assert_eq!(left.scene.lock().active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn deployer_killed_during_rollback_has_rolled_back() {
    let mut state = State::new(Server::good());
    state.fit = vec![OLD];
    let left = left_in(Phase::Switched, state);
    left.recover().await.unwrap();
    assert_eq!(left.last().unwrap().phase, Phase::RolledBack);
}

#[tokio::test(start_paused = true)]
async fn recover_restores_fit_flag_of_untouched_standby() {
    for (was_fit, fit) in [(true, vec![OLD, CANDIDATE]), (false, vec![OLD])] {
        let mut state = State::new(Server::good());
        state.fit = vec![OLD];
        let left = left_in(Phase::Planned, state);
        let plan = Plan {
            idle_was_fit: was_fit,
            ..plan()
        };
        let journal = Journal::lock(left.directory.path(), "deploy v2").expect("a lock");
        journal.record_phase(&plan, Phase::Planned, None).unwrap();
        drop(journal);
        left.recover().await.unwrap();
        assert_eq!(left.scene.lock().fit, fit);
    }
}

#[tokio::test(start_paused = true)]
async fn recover_bakes_again_with_on_interrupt_continue() {
    let mut state = State::new(Server::good());
    state.green = Server::good().started("v2");
    state.fit = vec![OLD];
    state.give_traffic_to(CANDIDATE);
    let left = left_in(Phase::Switched, state);
    tokio::time::advance(Duration::from_mins(1)).await;
    let outcome = left.resume().await;
    assert_eq!(outcome.phase, Phase::Promoted, "{}", outcome.reason);
    assert_eq!(left.last().unwrap().phase, Phase::Promoted);
    assert!(left.scene.lock().fit.contains(&CANDIDATE));
}

#[tokio::test(start_paused = true)]
async fn recover_halts_when_old_color_is_sick() {
    let mut state = State::new(Server::good());
    state.give_traffic_to(CANDIDATE);
    state.fit = vec![OLD];
    state.blue.trouble = Trouble::Unhealthy;
    let left = left_in(Phase::Switched, state);
    let Recovery::Halted(reason) = left.recover().await.unwrap() else {
        panic!("it did not halt");
    };
    assert!(reason.contains("blue is sick too"), "{reason}");
    assert!(reason.contains("`deployer switch COLOR`"), "{reason}");
    assert_eq!(left.last().unwrap().phase, Phase::Halted);
    assert_eq!(left.scene.lock().active, CANDIDATE);
}

proptest! {
    #[test]
    fn killed_deployer_leaves_traffic_on_a_proven_release(
        at in 0_usize..90,
        when in prop::sample::select(vec![Fault::Before, Fault::After]),
        later in prop::option::of(0_u64..12),
        quiet in any::<bool>(),
    ) {
        on_virtual_time(async move {
            let candidate = later.map_or_else(Server::good, |seconds| {
                Server::later(seconds, Trouble::PredictsNothing)
            });
            let mut deployment = Deployment::of(candidate);
            deployment.state.script.killed = Some((at, when));
            if quiet {
                deployment = deployment.quiet();
            }
            let left = deployment.run_while_it_lives().await;
            let before = left.last().map(|entry| entry.phase);
            left.recover().await.expect("the old color is healthy");

            let after = left.last().map(|entry| entry.phase);
            let state = left.scene.lock();
            state.history.assert_sound_throughout(&plan());
            let stops = |color| state.history.count(&Call::Stop(Service::Server(color)));
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
                let started = state.history.count(&Call::Start(color, "v2".to_owned()));
                assert_eq!(started, usize::from(color == CANDIDATE && started > 0));
            }
        });
    }
}
