//! A person moves traffic during a deployment, and a journal that cannot be written.

use std::time::Duration;

use deployer::{
    deployment::phase::Phase,
    ports::{Service, Target},
};

use crate::{
    deployment::{ALWAYS, CANDIDATE, Deployment, FinishedDeployment, OLD},
    faults::CallFault,
    server::{Server, ServerFault},
    trace::{Call, TraceEvent},
};

/// Asserts that no server was stopped while it had the traffic.
fn assert_never_stopped_under_traffic(finished: &FinishedDeployment) {
    for entry in &finished.trace.0 {
        if let TraceEvent::PortCalled(Call::Stop(Service::Server(color)), _) = entry.event {
            assert_ne!(color, entry.active, "{:#?}", finished.trace);
        }
    }
}

fn is_smoke_request(call: &Call) -> bool {
    *call == Call::Predict(Target::Server(CANDIDATE))
}

#[tokio::test(start_paused = true)]
async fn traffic_moves_back_from_unvalidated_candidate() {
    let finished = Deployment::of(Server::good())
        .interfere_after(is_smoke_request, |state| state.move_traffic_to(CANDIDATE))
        .run_with_interference()
        .await;
    finished.assert_outcome(
        Phase::RolledBack,
        "a person moved traffic to green during the deployment",
    );
    assert_eq!(finished.active, OLD);
    assert_never_stopped_under_traffic(&finished);
}

#[tokio::test(start_paused = true)]
async fn failed_candidate_loses_traffic_before_it_stops() {
    let finished = Deployment::of(Server::with_fault(ServerFault::FailsOneIn(2)))
        .interfere_after(is_smoke_request, |state| state.move_traffic_to(CANDIDATE))
        .run_with_interference()
        .await;
    finished.assert_outcome(Phase::RolledBack, "smoke: 5 of 10 requests failed");
    assert_eq!(finished.active, OLD);
    assert_never_stopped_under_traffic(&finished);
}

#[tokio::test(start_paused = true)]
async fn candidate_loses_traffic_by_its_flag_when_router_is_silent() {
    let finished = Deployment::of(Server::with_fault(ServerFault::FailsOneIn(2)))
        .interfere_after(is_smoke_request, |state| state.move_traffic_to(CANDIDATE))
        .failing_calls(ALWAYS, |call| *call == Call::Active, CallFault::Before)
        .run_with_interference()
        .await;
    finished.assert_outcome(Phase::RolledBack, "smoke: 5 of 10 requests failed");
    assert_eq!(finished.active, OLD);
    assert_never_stopped_under_traffic(&finished);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_not_promoted_when_traffic_moves_back() {
    // With this bake the own requests alone suffice for a promotion.
    let mut deployment = Deployment::of(Server::good());
    deployment.settings.bake.duration = Duration::from_secs(30);
    let finished = deployment
        .interfere_after(
            |call| *call == Call::Health(Target::Public),
            |state| state.move_traffic_to(OLD),
        )
        .run_with_interference()
        .await;
    finished.assert_outcome(
        Phase::RolledBack,
        "a person moved traffic back to blue during the deployment",
    );
    assert_eq!(finished.active, OLD);
    assert!(!finished.trace.last().fit.contains(&CANDIDATE));
}

#[tokio::test(start_paused = true)]
async fn deployment_is_refused_when_journal_is_unwritable() {
    let deployment = Deployment::of(Server::good());
    std::fs::create_dir(deployment.directory.path().join("journal.json.new")).unwrap();
    let finished = deployment.run_with_interference().await;
    finished.assert_outcome(Phase::Refused, "cannot write");
    assert!(!finished.trace.changed_anything(), "{:#?}", finished.trace);
}

#[tokio::test(start_paused = true)]
async fn unwritten_promotion_is_reported_and_completed_later() {
    let deployment = Deployment::of(Server::good());
    let directory = deployment.directory.path().to_owned();
    // Like a full disk: no new file can be written, and existing files can be read.
    let blocked = directory.join("journal.json.new");
    let interrupted = deployment
        .interfere_after(
            |call| *call == Call::SetFit(CANDIDATE, true),
            move |_| std::fs::create_dir(&blocked).unwrap(),
        )
        .run_to_end_or_kill()
        .await;
    let outcome = interrupted.outcome.as_ref().unwrap();
    assert_eq!(outcome.phase, Phase::Promoted);
    let unwritten = outcome.unwritten.as_deref().unwrap_or_default();
    assert!(unwritten.contains("cannot write"), "{unwritten}");
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Switched);

    std::fs::remove_dir(directory.join("journal.json.new")).unwrap();
    interrupted.recover().await.unwrap();
    assert_eq!(interrupted.last_entry().unwrap().phase, Phase::Promoted);
    assert_eq!(interrupted.fake_ports.lock().active, CANDIDATE);
}

#[tokio::test(start_paused = true)]
async fn switch_is_undone_when_journal_is_unwritable() {
    let deployment = Deployment::of(Server::good());
    let blocked = deployment.directory.path().join("journal.json.new");
    let finished = deployment
        .interfere_after(
            |call| *call == Call::SwitchTo(CANDIDATE),
            move |_| std::fs::create_dir(&blocked).unwrap(),
        )
        .run_with_interference()
        .await;
    finished.assert_outcome(Phase::RolledBack, "cannot write");
    assert_eq!(finished.active, OLD);
    assert_never_stopped_under_traffic(&finished);
    let notes = finished.trace.notes();
    assert!(
        notes.iter().any(|note| note.starts_with("cannot write")),
        "{notes:?}"
    );
}
