//! The idle color gets back the release that it held before a deployment that failed.

use deployer::{
    adapters::StateDirectory,
    deployment::{phase::Phase, restore::version_to_hold},
    ports::JournalStore as _,
    state::action::Action,
};

use crate::{
    deployment::{CANDIDATE, Deployment, InterruptedDeployment, OLD},
    server::{Server, ServerFault},
    trace::Call,
};

/// A deployment whose candidate failed with this fault, and a fleet whose next start succeeds.
async fn failed(fault: ServerFault) -> InterruptedDeployment {
    let deployment = Deployment::of(Server::with_fault(fault));
    let failed = deployment.run_to_end_or_kill().await;
    failed.fake_ports.lock().candidate = Server::good();
    failed
}

async fn actions(failed: &InterruptedDeployment) -> Vec<Action> {
    let state = StateDirectory::new(failed.directory.path());
    let history = state.read_history().await.expect("a history").entries;
    history.iter().map(|entry| entry.action).collect()
}

#[tokio::test(start_paused = true)]
async fn idle_color_holds_earlier_release_after_a_refusal() {
    for was_fit in [true, false] {
        let refused = failed(ServerFault::Unhealthy).await;
        assert!(refused.restore(was_fit).await);
        assert_eq!(actions(&refused).await, [Action::Refused, Action::Restored]);
        let state = refused.fake_ports.lock();
        assert_eq!(state.green.version, "v0");
        assert_eq!(state.fit.contains(&CANDIDATE), was_fit);
        assert_eq!(state.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn release_is_restored_once() {
    let refused = failed(ServerFault::Unhealthy).await;
    for _ in 0..2 {
        assert!(refused.restore(true).await);
    }
    let state = refused.fake_ports.lock();
    let start = Call::Start(CANDIDATE, "v0".to_owned());
    assert_eq!(state.trace.count(&start), 1);
}

#[tokio::test(start_paused = true)]
async fn release_that_does_not_start_is_recorded_and_not_fit() {
    let refused = failed(ServerFault::Unhealthy).await;
    refused.fake_ports.lock().candidate = Server::with_fault(ServerFault::CannotStart);
    assert!(!refused.restore(true).await);
    assert_eq!(
        actions(&refused).await,
        [Action::Refused, Action::NotRestored]
    );
    assert!(!refused.fake_ports.lock().fit.contains(&CANDIDATE));
}

#[tokio::test(start_paused = true)]
async fn color_with_traffic_keeps_its_release() {
    let refused = failed(ServerFault::Unhealthy).await;
    refused.fake_ports.lock().active = CANDIDATE;
    assert!(refused.restore(true).await);
    assert_eq!(actions(&refused).await, [Action::Refused]);
}

#[tokio::test(start_paused = true)]
async fn refused_release_is_not_the_version_to_hold() {
    let refused = failed(ServerFault::Unhealthy).await;
    let state = StateDirectory::new(refused.directory.path());
    let hold =
        async |recorded: &str| version_to_hold(&state, CANDIDATE, Some(recorded.to_owned())).await;
    assert_eq!(hold("v2").await, None, "no earlier one is known");
    refused.restore(true).await;
    assert_eq!(refused.last_entry().unwrap().phase, Phase::Refused);
    assert_eq!(hold("v2").await.as_deref(), Some("v0"));
    assert_eq!(hold("v1").await.as_deref(), Some("v1"));
}
