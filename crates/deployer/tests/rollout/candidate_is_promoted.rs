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
async fn a_good_release_goes_through_every_phase_and_keeps_the_traffic() {
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
async fn the_candidate_may_stand_in_only_when_promoted_and_the_old_color_before_the_switch() {
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
async fn it_is_asked_who_it_is_and_smoke_tested_before_it_gets_traffic() {
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
async fn the_switch_is_told_with_both_colors() {
    let history = Deployment::of(Server::good()).run().await.history;
    let moved = Happened::Moved(OLD, CANDIDATE);
    assert!(history.0.iter().any(|moment| moment.happened == moved));
}

#[tokio::test(start_paused = true)]
async fn a_promotion_stops_nothing() {
    let ended = Deployment::of(Server::good()).run().await;
    for color in Color::BOTH {
        assert_eq!(ended.count(&Call::Stop(Service::Server(color))), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_service_gets_no_probes_once_its_clients_are_in_the_log() {
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
async fn a_quiet_service_is_judged_by_probes_through_the_router() {
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
async fn a_few_failures_are_within_the_limit() {
    let candidate = Server::later(0, Trouble::FailsOneIn(30));
    Deployment::of(candidate)
        .run()
        .await
        .assert(Phase::Promoted, "baked for 10 s");
}

#[tokio::test(start_paused = true)]
async fn two_failed_checks_in_a_row_are_forgiven_any_number_of_times() {
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
async fn a_failed_check_at_the_end_is_asked_again_before_it_is_promoted() {
    let of_the_candidate = |call: &Call| *call == Call::Health(Target::Server(CANDIDATE));
    let last = CHECKS_BEFORE_THE_WATCH + 10;
    let ended = Deployment::of(Server::good())
        .failing(last..last + 1, of_the_candidate, Fault::Before)
        .run()
        .await;
    ended.assert(Phase::Promoted, "baked for 11 s");
}

#[tokio::test(start_paused = true)]
async fn failures_that_were_logged_before_the_switch_are_not_held_against_it() {
    let mut deployment = Deployment::of(Server::good());
    let of_the_release_before = Request {
        attempts: vec![Some(502)],
        ..unanswered(CANDIDATE)
    };
    deployment.state.log = vec![of_the_release_before; 1_000];
    deployment.run().await.assert(Phase::Promoted, "0 of 5");
}

#[tokio::test(start_paused = true)]
async fn what_the_router_kept_from_it_on_account_of_the_release_before_is_not_held_against_it() {
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
async fn a_log_that_becomes_unreadable_is_noted_and_the_answers_to_probes_count() {
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
async fn without_a_log_probes_and_counters_judge() {
    let ended = Deployment::of(Server::good()).without_a_log().run().await;
    ended.assert(Phase::Promoted, "own requests were added");
    assert_eq!(ended.count(&Call::NewRequests), 0);
}

#[tokio::test(start_paused = true)]
async fn without_a_log_and_without_counters_probes_judge_alone() {
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
async fn a_log_that_can_never_be_read_is_no_news() {
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
async fn a_log_that_nginx_does_not_write_to_is_no_news() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.logs = false;
    let ended = deployment.run().await;
    ended.assert(Phase::Promoted, "own requests were added");
}

#[tokio::test(start_paused = true)]
async fn a_server_without_counters_is_judged_by_the_log() {
    let candidate = Server {
        tells_counters: false,
        ..Server::good()
    };
    Deployment::of(candidate)
        .run()
        .await
        .assert(Phase::Promoted, "baked for 10 s: 0 of 5");
}
