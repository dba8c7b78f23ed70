//! Windows in which deployments may switch.

use deployer::deployment::phase::Phase;

use crate::{
    deployment::{Deployment, OLD},
    server::Server,
};

/// A deployment on the first day of 1970, on which no deployment may switch.
fn frozen() -> Deployment {
    let mut deployment = Deployment::of(Server::good());
    let freeze = "1970-01-01..1970-01-02".parse().expect("a freeze");
    deployment.settings.windows.freezes = vec![freeze];
    deployment
}

#[tokio::test(start_paused = true)]
async fn closed_window_refuses_the_candidate_before_the_switch() {
    let finished = frozen().run().await;
    let reason = "the freeze 1970-01-01..1970-01-02 holds deployments back: the next one opens Sat 1970-01-03 00:00 UTC";
    finished.assert_outcome(Phase::Refused, reason);
    assert_eq!(finished.active, OLD);
}

#[tokio::test(start_paused = true)]
async fn overridden_window_lets_the_candidate_switch() {
    let mut deployment = frozen();
    deployment.settings.windows.overridden = Some("clients wait".to_owned());
    let finished = deployment.run().await;
    assert_eq!(finished.outcome.phase, Phase::Promoted);
}
