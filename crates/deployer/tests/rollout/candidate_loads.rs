//! Candidates that load for a while: waited for as long as they make progress.

use std::time::Duration;

use deployer::{deployment::phase::Phase, ports::Activity};

use crate::{
    deployment::{CANDIDATE, Deployment, FinishedDeployment},
    server::Server,
    trace::Call,
};

const TWO_MINUTES: Duration = Duration::from_mins(2);
const FOR_EVER: Duration = Duration::MAX;

fn logs(line: String) -> Activity {
    Activity {
        log: vec![line],
        ..Activity::default()
    }
}

async fn deploy(loads_for: Duration, activity: fn(Duration) -> Activity) -> FinishedDeployment {
    let mut deployment = Deployment::of(Server::loading_for(loads_for, activity));
    deployment.settings.health.stall = Duration::from_secs(30);
    deployment.settings.health.deadline = Duration::from_mins(5);
    deployment.run().await
}

/// Asserts that the candidate was refused for this reason between these two times.
fn assert_refused(finished: &FinishedDeployment, reason: &str, from: u64, to: u64) {
    finished.assert_outcome(Phase::Refused, reason);
    assert_eq!(finished.count(&Call::SwitchTo(CANDIDATE)), 0);
    let took = finished.took.as_secs();
    assert!(
        (from..=to).contains(&took),
        "{took} s: {}",
        finished.outcome.reason
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_that_loads_for_two_minutes_with_progress_is_promoted() {
    let signs: [fn(Duration) -> Activity; 3] = [
        |age| {
            logs(format!(
                "12:00:{} loading shards: {} of 120",
                age.as_secs() % 60,
                age.as_secs()
            ))
        },
        |age| Activity {
            memory: Some(age.as_secs() * 50_000_000),
            ..Activity::default()
        },
        // Once in 20 s.
        |age| Activity {
            disk_read: Some(age.as_secs() / 20 * 1_000_000_000),
            ..Activity::default()
        },
    ];
    for sign in signs {
        let finished = deploy(TWO_MINUTES, sign).await;
        finished.assert_outcome(Phase::Promoted, "");
        assert!(finished.took >= TWO_MINUTES, "{:?}", finished.took);
    }
}

#[tokio::test(start_paused = true)]
async fn candidate_that_stops_making_progress_is_refused_after_the_stall() {
    let finished = deploy(FOR_EVER, |age| {
        logs(format!("loading shards: {} of 120", age.as_secs().min(60)))
    })
    .await;
    assert_refused(
        &finished,
        "no progress for 30s (health.stall): answered 503, loading",
        90,
        95,
    );
    finished.assert_outcome(Phase::Refused, "these are its last log lines");
}

#[tokio::test(start_paused = true)]
async fn candidate_that_logs_the_same_for_ever_is_refused_after_the_stall() {
    let finished = deploy(FOR_EVER, |age| {
        logs(format!(
            "2026-11-27 12:00:{:02} attempt {}: no GPU yet",
            age.as_secs() % 60,
            age.as_secs()
        ))
    })
    .await;
    assert_refused(&finished, "no progress for 30s (health.stall)", 30, 33);
}

#[tokio::test(start_paused = true)]
async fn candidate_that_makes_progress_for_ever_is_refused_at_the_deadline() {
    let finished = deploy(FOR_EVER, |age| Activity {
        memory: Some(age.as_secs() << 20),
        ..Activity::default()
    })
    .await;
    assert_refused(
        &finished,
        "not healthy within 5m (health.deadline), although its memory is",
        300,
        303,
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_that_ends_and_starts_again_and_again_is_refused_quickly() {
    let finished = deploy(FOR_EVER, |age| Activity {
        restarts: Some(age.as_secs() / 2),
        memory: Some((age.as_secs() % 2) << 30),
        ..logs(format!("part {} of 1000", age.as_secs()))
    })
    .await;
    assert_refused(
        &finished,
        "it ended and was started again 3 times within 6s",
        6,
        9,
    );
}

#[tokio::test(start_paused = true)]
async fn candidate_that_ended_once_is_still_waited_for() {
    let finished = deploy(Duration::from_secs(20), |age| Activity {
        restarts: Some(u64::from(age.as_secs() > 5)),
        ..Activity::default()
    })
    .await;
    finished.assert_outcome(Phase::Promoted, "");
}
