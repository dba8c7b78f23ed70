//! Flags that are moved by hand while a deployment runs, and a journal that goes away.

use std::time::Duration;

use deployer::{
    deployment::phase::Phase,
    ports::{Service, Target},
};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, Ended, OLD},
    history::{Call, Happened},
    script::Fault,
    server::{Server, Trouble},
};

/// Nothing was stopped while it had the traffic.
fn assert_never_stopped_under_traffic(ended: &Ended) {
    for moment in &ended.history.0 {
        if let Happened::Called(Call::Stop(Service::Server(color)), _) = moment.happened {
            assert_ne!(color, moment.active, "{:#?}", ended.history);
        }
    }
}

fn smoke_request(call: &Call) -> bool {
    *call == Call::Predict(Target::Server(CANDIDATE))
}

#[tokio::test(start_paused = true)]
async fn traffic_moved_early_to_a_candidate_is_returned() {
    let ended = Deployment::of(Server::good())
        .then(smoke_request, |state| state.give_traffic_to(CANDIDATE))
        .run_with_interference()
        .await;
    ended.assert(
        Phase::RolledBack,
        "a person moved traffic to green meanwhile",
    );
    assert_eq!(ended.active, OLD);
    assert_never_stopped_under_traffic(&ended);
}

#[tokio::test(start_paused = true)]
async fn refused_candidate_keeps_running_when_a_person_gave_it_traffic() {
    let ended = Deployment::of(Server::with(Trouble::FailsOneIn(2)))
        .then(smoke_request, |state| state.give_traffic_to(CANDIDATE))
        .run_with_interference()
        .await;
    ended.assert(Phase::RolledBack, "smoke: 5 of 10 requests failed");
    assert_eq!(ended.active, OLD);
    assert_never_stopped_under_traffic(&ended);
}

#[tokio::test(start_paused = true)]
async fn candidate_named_by_flag_loses_traffic_when_router_is_silent() {
    let ended = Deployment::of(Server::with(Trouble::FailsOneIn(2)))
        .then(smoke_request, |state| state.give_traffic_to(CANDIDATE))
        .failing(ALWAYS, |call| *call == Call::Active, Fault::Before)
        .run_with_interference()
        .await;
    ended.assert(Phase::RolledBack, "smoke: 5 of 10 requests failed");
    assert_eq!(ended.active, OLD);
    assert_never_stopped_under_traffic(&ended);
}

#[tokio::test(start_paused = true)]
async fn traffic_moved_back_during_the_bake_is_no_promotion() {
    // Long enough that its answers to the deployer alone speak for it.
    let mut deployment = Deployment::of(Server::good());
    deployment.settings.bake.duration = Duration::from_secs(30);
    let ended = deployment
        .then(
            |call| *call == Call::Health(Target::Public),
            |state| state.give_traffic_to(OLD),
        )
        .run_with_interference()
        .await;
    ended.assert(
        Phase::RolledBack,
        "a person moved traffic back to blue meanwhile",
    );
    assert_eq!(ended.active, OLD);
    assert!(!ended.history.last().fit.contains(&CANDIDATE));
}

#[tokio::test(start_paused = true)]
async fn deployment_does_not_begin_when_journal_is_unwritable() {
    let deployment = Deployment::of(Server::good());
    std::fs::create_dir(deployment.directory.path().join("deployment.json")).unwrap();
    let ended = deployment.run_with_interference().await;
    ended.assert(Phase::Refused, "cannot write");
    assert!(!ended.history.touched_anything(), "{:#?}", ended.history);
}

#[tokio::test(start_paused = true)]
async fn unwritten_promotion_is_reported_and_completed_later() {
    let deployment = Deployment::of(Server::good());
    let directory = deployment.directory.path().to_owned();
    // A full disk: no new file, while what is there can be read.
    let blocked = directory.join("deployment.json.new");
    let left = deployment
        .then(
            |call| *call == Call::SetFit(CANDIDATE, true),
            move |_| std::fs::create_dir(&blocked).unwrap(),
        )
        .run_while_it_lives()
        .await;
    let outcome = left.outcome.as_ref().unwrap();
    assert_eq!(outcome.phase, Phase::Promoted);
    let unwritten = outcome.unwritten.as_deref().unwrap_or_default();
    assert!(unwritten.contains("cannot write"), "{unwritten}");
    assert_eq!(left.last().unwrap().phase, Phase::Switched);

    std::fs::remove_dir(directory.join("deployment.json.new")).unwrap();
    left.recover().await.unwrap();
    assert_eq!(left.last().unwrap().phase, Phase::Promoted);
    assert_eq!(left.scene.lock().active, CANDIDATE);
}

#[tokio::test(start_paused = true)]
async fn switch_is_undone_when_journal_is_unwritable() {
    let deployment = Deployment::of(Server::good());
    let journal = deployment.directory.path().join("deployment.json");
    let ended = deployment
        .then(
            |call| *call == Call::PointAt(CANDIDATE),
            move |_| {
                std::fs::remove_file(&journal).unwrap();
                std::fs::create_dir(&journal).unwrap();
            },
        )
        .run_with_interference()
        .await;
    ended.assert(Phase::RolledBack, "cannot write");
    assert_eq!(ended.active, OLD);
    assert_never_stopped_under_traffic(&ended);
    let notes = ended.history.notes();
    assert!(
        notes.iter().any(|note| note.starts_with("cannot write")),
        "{notes:?}"
    );
}
