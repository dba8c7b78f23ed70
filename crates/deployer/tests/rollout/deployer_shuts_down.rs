//! Ctrl-C, SIGTERM, a terminal that closes.

use std::time::Duration;

use deployer::{config::OnInterrupt, deployment::phase::Phase};

use crate::{
    deployment::{CANDIDATE, Deployment, Ended, OLD},
    server::{Server, Trouble},
};

const EARLY: Duration = Duration::from_secs(2);
/// Traffic has moved, and the watch of ten seconds is not over.
const LATER: Duration = Duration::from_secs(5);

async fn shutdown(candidate: Server, on_interrupt: OnInterrupt, at: &[Duration]) -> Ended {
    let mut deployment = Deployment::of(candidate);
    deployment.settings.bake.on_interrupt = on_interrupt;
    deployment.told_to_stop_at = at.to_vec();
    Box::pin(deployment.run()).await
}

#[tokio::test(start_paused = true)]
async fn signal_before_the_switch_refuses() {
    for on_interrupt in [OnInterrupt::Rollback, OnInterrupt::Continue] {
        let candidate = Server::with(Trouble::Unhealthy);
        let ended = shutdown(candidate, on_interrupt, &[EARLY]).await;
        ended.assert(Phase::Refused, "the deployer received a stop signal");
        assert_eq!(ended.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn signal_after_the_switch_rolls_back() {
    let ended = shutdown(Server::good(), OnInterrupt::Rollback, &[LATER]).await;
    ended.assert(Phase::RolledBack, "the deployer received a stop signal");
    assert_eq!(ended.active, OLD);
    assert!(ended.took < 2 * LATER, "{:?}", ended.took);
}

#[tokio::test(start_paused = true)]
async fn signal_is_ignored_once_with_on_interrupt_continue() {
    let ended = shutdown(Server::good(), OnInterrupt::Continue, &[LATER]).await;
    assert_eq!(ended.outcome.phase, Phase::Promoted);
    assert_eq!(ended.active, CANDIDATE);
    let notes = ended.history.notes();
    assert!(
        notes.iter().any(|note| note.contains("the bake continues")),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn second_signal_rolls_back_with_on_interrupt_continue() {
    let ended = shutdown(Server::good(), OnInterrupt::Continue, &[LATER, LATER]).await;
    ended.assert(Phase::RolledBack, "the deployer received a stop signal");
}
