//! The idle color gets back the release that it held before a deployment that failed.

use deployer::{
    adapters::StateDirectory,
    deployment::{phase::Phase, restore::ReleaseToHold},
    ports::JournalStore as _,
    state::{action::Action, history::HistoryEntry},
};

use crate::{
    deployment::{CANDIDATE, Deployment, InterruptedDeployment, OLD},
    server::{Server, ServerFault, digest},
    trace::Call,
};

/// A deployment whose candidate failed with this fault, and a fleet whose next start succeeds.
async fn failed(fault: ServerFault) -> InterruptedDeployment {
    let deployment = Deployment::of(Server::with_fault(fault));
    let failed = deployment.run_to_end_or_kill().await;
    failed.fake_ports.lock().candidate = Server::good();
    failed
}

async fn history(failed: &InterruptedDeployment) -> Vec<HistoryEntry> {
    let state = StateDirectory::new(failed.directory.path());
    state.read_history().await.expect("a history").entries
}

async fn actions(failed: &InterruptedDeployment) -> Vec<Action> {
    let history = history(failed).await;
    history.iter().map(|entry| entry.action).collect()
}

#[tokio::test(start_paused = true)]
async fn idle_color_holds_earlier_release_after_a_refusal() {
    for was_fit in [true, false] {
        let refused = failed(ServerFault::Unhealthy).await;
        assert!(refused.restore(was_fit).await);
        let history = history(&refused).await;
        let [end, restored] = &history[..] else {
            panic!("{history:?}");
        };
        assert_eq!(end.action, Action::Refused);
        assert_eq!(restored.action, Action::Restored);
        assert_eq!(restored.digest, Some(digest("v0")));
        let state = refused.fake_ports.lock();
        assert_eq!(state.green.version, "v0");
        assert_eq!(state.fit.contains(&CANDIDATE), was_fit);
        assert_eq!(state.active, OLD);
    }
}

/// A person may move traffic back to the old release when the candidate is proven and fit already.
#[tokio::test(start_paused = true)]
async fn unproven_release_does_not_inherit_fit_flag_of_proven_candidate() {
    let refused = failed(ServerFault::Unhealthy).await;
    refused.fake_ports.lock().fit.push(CANDIDATE);
    assert!(refused.restore(false).await);
    let state = refused.fake_ports.lock();
    assert_eq!(state.green.version, "v0");
    assert!(!state.fit.contains(&CANDIDATE));
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
async fn release_under_the_refused_version_is_restored_only_with_its_digest() {
    let restored = [Action::Refused, Action::Restored];
    let not_restored = [Action::Refused, Action::NotRestored];
    // The fleet starts what the version names now: files with the digest of v2.
    for (before, actual) in [
        (Some(digest("v2")), restored),
        (
            Some("the digest of an earlier build".to_owned()),
            not_restored,
        ),
        (None, not_restored),
    ] {
        let is_restored = actual == restored;
        let refused = failed(ServerFault::Unhealthy).await;
        let done = refused.restore_release("v2", before.clone(), true).await;
        assert_eq!(done, is_restored, "{before:?}");
        assert_eq!(actions(&refused).await, actual, "{before:?}");
        let mut state = refused.fake_ports.lock();
        assert_eq!(state.fit.contains(&CANDIDATE), is_restored, "{before:?}");
        let runs = state.server(CANDIDATE).current_fault() != ServerFault::Exited;
        assert_eq!(runs, is_restored, "{before:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn candidate_that_its_color_held_without_proof_is_not_started_again() {
    let refused = failed(ServerFault::Unhealthy).await;
    let same = Some(digest("v2"));
    assert!(refused.restore_release("v2", same, false).await);
    assert_eq!(actions(&refused).await, [Action::Refused]);
    let mut state = refused.fake_ports.lock();
    assert_eq!(state.server(CANDIDATE).current_fault(), ServerFault::Exited);
}

#[tokio::test(start_paused = true)]
async fn release_whose_files_changed_is_not_restored() {
    let refused = failed(ServerFault::Unhealthy).await;
    let before = Some("the digest of other files".to_owned());
    assert!(!refused.restore_release("v0", before, true).await);
    let mut state = refused.fake_ports.lock();
    assert!(!state.fit.contains(&CANDIDATE));
    assert_eq!(state.server(CANDIDATE).current_fault(), ServerFault::Exited);
}

#[tokio::test(start_paused = true)]
async fn refused_release_is_not_the_one_to_hold() {
    let refused = failed(ServerFault::Unhealthy).await;
    let state = StateDirectory::new(refused.directory.path());
    let hold = async |recorded| ReleaseToHold::of(&state, CANDIDATE, Some(recorded)).await;
    assert_eq!(hold("v2").await, ReleaseToHold::Unknown);
    assert_eq!(hold("v1").await, ReleaseToHold::LastStarted);
    // It is written down which release it was, and that does not start.
    refused.fake_ports.lock().candidate = Server::with_fault(ServerFault::CannotStart);
    assert!(!refused.restore(true).await);
    assert_eq!(refused.last_entry().unwrap().phase, Phase::Refused);
    let ReleaseToHold::Earlier { release, .. } = hold("v2").await else {
        panic!("no earlier release is known");
    };
    assert_eq!(release.version, "v0");
    refused.fake_ports.lock().candidate = Server::good();
    assert!(
        refused
            .restore_release("v2", Some(digest("v2")), true)
            .await
    );
    assert_eq!(hold("v2").await, ReleaseToHold::LastStarted);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_to_roll_back_when_release_is_restored_under_the_same_version() {
    let rolled_back = failed(ServerFault::FailsClients).await;
    let digest = Some(digest("v2"));
    assert!(rolled_back.restore_release("v2", digest, true).await);
    let state = StateDirectory::new(rolled_back.directory.path());
    let entries = state.read().await.expect("a journal");
    assert!(entries.is_rolled_back_to(OLD));
    let history = history(&rolled_back).await;
    assert!(entries.nothing_to_roll_back(&history, OLD, Some("v2")));
    // Without the restoration, the standby holds the candidate.
    let [until_end @ .., restored] = &history[..] else {
        panic!("{history:?}");
    };
    assert_eq!(restored.action, Action::Restored);
    assert!(!entries.nothing_to_roll_back(until_end, OLD, Some("v2")));
}
