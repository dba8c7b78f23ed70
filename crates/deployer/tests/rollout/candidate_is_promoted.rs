//! The way of a good release.

use std::time::Duration;

use deployer::{
    color::Color,
    deployment::phase::Phase,
    evidence::request::Request,
    ports::{Service, Target},
};

use crate::{
    deployment::{CANDIDATE, Deployment, OLD},
    fake_ports::{passed_over_at, unanswered},
    history::{Call, Happened, Moment},
    script::Fault,
    server::{Server, Trouble},
};

const PUBLIC: Call = Call::Predict(Target::Public);
/// Through the router, but to the candidate alone.
const ALONE: Call = Call::Predict(Target::ThroughRouter(CANDIDATE));

/// Two until it is healthy, one for its identity, one to know it again behind the router.
const CHECKS_BEFORE_THE_WATCH: usize = 4;

#[tokio::test(start_paused = true)]
async fn good_release_passes_every_phase_and_keeps_traffic() {
    let ended = Deployment::of(Server::good()).run().await;
    ended.assert(Phase::Promoted, "baked for 10 s: 0 of 5");
    assert_eq!(
        ended.history.phases(),
        [
            Phase::Planned,
            Phase::Starting,
            Phase::Healthy,
            Phase::Validated,
            Phase::Switched,
            Phase::Promoted,
        ]
    );
    assert_eq!(ended.active, CANDIDATE);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
}

#[tokio::test(start_paused = true)]
async fn candidate_is_fit_only_after_promotion() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.fit = vec![CANDIDATE];
    let history = deployment.run().await.history;
    let at = |call| history.position(&call).unwrap();

    let start = at(Call::Start(CANDIDATE, "v2".to_owned()));
    let switch = at(Call::PointAt(CANDIDATE));
    let proven = at(Call::SetFit(CANDIDATE, true));
    assert!(at(Call::SetFit(CANDIDATE, false)) < start);
    assert!(at(Call::SetFit(OLD, true)) < switch);
    assert!(switch < proven);
    for moment in &history.0[start..proven] {
        assert_eq!(moment.fit, [OLD], "{moment:?}");
    }
    assert_eq!(history.last().fit, [OLD, CANDIDATE]);
}

#[tokio::test(start_paused = true)]
async fn identity_and_smoke_run_before_the_switch() {
    let history = Deployment::of(Server::good()).run().await.history;
    let switch = history.position(&Call::PointAt(CANDIDATE)).unwrap();
    let before: Vec<_> = history.0[..switch]
        .iter()
        .filter_map(|moment| match &moment.happened {
            Happened::Judged(gate, _) => Some(*gate),
            Happened::Called(call, _) if *call == Call::Predict(Target::Server(CANDIDATE)) => {
                Some("request")
            }
            _ => None,
        })
        .collect();
    let mut wanted = vec!["health", "identity", "reachable"];
    wanted.extend(["request"; 10]);
    wanted.push("smoke");
    assert_eq!(before, wanted);
}

#[tokio::test(start_paused = true)]
async fn switch_event_names_both_colors() {
    let history = Deployment::of(Server::good()).run().await.history;
    let moved = Happened::Moved(OLD, CANDIDATE);
    assert!(history.0.iter().any(|moment| moment.happened == moved));
}

#[tokio::test(start_paused = true)]
async fn promotion_stops_no_server() {
    let ended = Deployment::of(Server::good()).run().await;
    for color in Color::BOTH {
        assert_eq!(ended.count(&Call::Stop(Service::Server(color))), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn logged_client_requests_replace_own_requests() {
    let ended = Deployment::of(Server::good()).run().await;
    let history = &ended.history;
    let busy = history
        .0
        .iter()
        .position(|moment| matches!(moment.happened, Happened::MonitoredColor(1..)))
        .unwrap();
    let probed = |moment: &Moment| moment.happened == Happened::Called(PUBLIC, true);
    assert!(!history.0[busy..].iter().any(probed), "{history:#?}");
    // The look right at the switch finds an empty log and asks for one look's share of what is needed.
    assert!(ended.count(&PUBLIC) <= 25, "{history:#?}");
}

#[tokio::test(start_paused = true)]
async fn quiet_service_is_judged_by_own_requests() {
    let ended = Deployment::of(Server::good()).quiet().run().await;
    let probes = ended.count(&PUBLIC);
    assert!(probes >= 200, "{probes}");
    ended.assert(
        Phase::Promoted,
        &format!(
            "0 of {probes} requests failed (0.0 %); own requests were added to the traffic: {probes}"
        ),
    );
}

#[tokio::test(start_paused = true)]
async fn few_failures_are_within_the_limit() {
    let candidate = Server::later(0, Trouble::FailsOneIn(30));
    Deployment::of(candidate)
        .run()
        .await
        .assert(Phase::Promoted, "baked for 10 s");
}

#[tokio::test(start_paused = true)]
async fn two_consecutive_failed_checks_are_tolerated() {
    let of_the_candidate = |call: &Call| *call == Call::Health(Target::Server(CANDIDATE));
    let first = CHECKS_BEFORE_THE_WATCH;
    let ended = Deployment::of(Server::good())
        .failing(first + 1..first + 3, of_the_candidate, Fault::Before)
        .failing(first + 4..first + 6, of_the_candidate, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Promoted, "baked for 10 s");
    // Asked twice while it starts, once before the switch, and after each failed check.
    let inspections = ended.count(&Call::Inspect(Service::Server(CANDIDATE)));
    assert_eq!(inspections, 2 + 1 + 4);
}

#[tokio::test(start_paused = true)]
async fn failed_check_at_the_end_is_repeated_before_promotion() {
    let of_the_candidate = |call: &Call| *call == Call::Health(Target::Server(CANDIDATE));
    let last = CHECKS_BEFORE_THE_WATCH + 10;
    let ended = Deployment::of(Server::good())
        .failing(last..last + 1, of_the_candidate, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Promoted, "baked for 11 s");
}

#[tokio::test(start_paused = true)]
async fn failures_logged_before_the_switch_do_not_count() {
    let mut deployment = Deployment::of(Server::good());
    let of_the_release_before = Request {
        attempts: vec![Some(502)],
        ..unanswered(CANDIDATE)
    };
    deployment.state.log = vec![of_the_release_before; 1_000];
    deployment.run().await.assert(Phase::Promoted, "0 of 5");
}

#[tokio::test(start_paused = true)]
async fn requests_passed_over_because_of_previous_release_do_not_count() {
    let passed_over = vec![passed_over_at(0.0); 1_000];
    Deployment::of(Server::good())
        .then(
            |call| *call == Call::PointAt(CANDIDATE),
            |state| state.log.extend(passed_over),
        )
        .run()
        .await
        .assert(Phase::Promoted, "0 of 5");
}

#[tokio::test(start_paused = true)]
async fn unreadable_log_is_noted_and_own_requests_count() {
    let during_the_watch = |call: &Call| *call == Call::NewRequests;
    let ended = Deployment::of(Server::good())
        .failing(2..usize::MAX, during_the_watch, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Promoted, "own requests were added");
    assert!(ended.count(&ALONE) >= 200);
    let notes = ended.history.notes();
    assert!(notes.contains(&"NewRequests failed"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn own_requests_and_counters_judge_without_log() {
    let ended = Deployment::of(Server::good()).without_a_log().run().await;
    ended.assert(Phase::Promoted, "own requests were added");
    assert_eq!(ended.count(&Call::NewRequests), 0);
}

#[tokio::test(start_paused = true)]
async fn own_requests_judge_without_log_and_counters() {
    let candidate = Server {
        tells_counters: false,
        ..Server::good()
    };
    let ended = Deployment::of(candidate).without_a_log().run().await;
    ended.assert(Phase::Promoted, "own requests were added");
    // The traffic that is needed, and not one flood after another.
    let probes = ended.count(&PUBLIC) + ended.count(&ALONE);
    assert!(probes <= 260, "{probes}");
}

#[tokio::test(start_paused = true)]
async fn log_that_is_never_readable_does_not_fail() {
    let ended = Deployment::of(Server::good())
        .failing(
            0..usize::MAX,
            |call| *call == Call::NewRequests,
            Fault::Before,
        )
        .run()
        .await;
    ended.assert(Phase::Promoted, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn log_that_is_never_written_does_not_fail() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.logs = false;
    let ended = deployment.run().await;
    ended.assert(Phase::Promoted, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn server_without_counters_is_judged_by_the_log() {
    let candidate = Server {
        tells_counters: false,
        ..Server::good()
    };
    Deployment::of(candidate)
        .run()
        .await
        .assert(Phase::Promoted, "baked for 10 s: 0 of 5");
}
