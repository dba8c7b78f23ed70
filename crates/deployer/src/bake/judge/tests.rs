//! Verdicts on good and bad releases.

mod endings;
mod simulation;

use proptest::prelude::*;

use super::*;
use crate::{color::Color, config::OnInterrupt, evidence::request::answered_by};

const MINUTE: Duration = Duration::from_mins(1);

fn settings() -> BakeSettings {
    BakeSettings {
        duration: MINUTE,
        interval: Duration::from_secs(1),
        max_error_rate: 0.05,
        window: Duration::from_secs(10),
        min_requests: 50,
        max_rise: 0.02,
        ask_previous: true,
        max_size_ratio: 4.0,
        failures: 3,
        max_ratio: 2.0,
        negligible: Duration::from_millis(5),
        max_label_drift: 0.25,
        on_inconclusive: OnInconclusive::Rollback,
        on_interrupt: OnInterrupt::Rollback,
    }
}

fn bake() -> Bake {
    bake_after(TrafficSample::default())
}

/// A bake after this traffic of the previous release, which cannot be asked.
fn bake_after(before: TrafficSample) -> Bake {
    Bake::new(settings(), before, "/predict", false)
}

/// A bake that is extended while its end is inconclusive.
fn extending_bake() -> Bake {
    let settings = BakeSettings {
        on_inconclusive: OnInconclusive::Extend,
        ..settings()
    };
    Bake::new(settings, TrafficSample::default(), "/predict", false)
}

fn sample(requests: u64, failed: u64) -> TrafficSample {
    TrafficSample {
        tally: Tally { requests, failed },
        ..TrafficSample::default()
    }
}

fn observation(requests: u64, failed: u64) -> Observation {
    Observation {
        traffic: sample(requests, failed),
        health: Some(Ok(Health::default())),
        request: Some(Ok(())),
        ..Observation::default()
    }
}

fn observed_counters(requests: u64, errors: u64, uptime: f64) -> Observation {
    let health = Health {
        request_count: Some(requests),
        error_count: Some(errors),
        uptime_seconds: Some(uptime),
        ..Health::default()
    };
    Observation {
        health: Some(Ok(health)),
        ..observation(0, 0)
    }
}

fn conclusion(bake: &mut Bake, elapsed: Duration) -> Option<Conclusion> {
    bake.verdict(elapsed).map(|verdict| verdict.conclusion)
}

#[test]
fn good_release_passes_only_at_the_end() {
    let mut bake = bake();
    bake.record(observation(1000, 0));
    assert_eq!(conclusion(&mut bake, MINUTE / 2), None);
    assert_eq!(conclusion(&mut bake, MINUTE), Some(Conclusion::Pass));
}

#[test]
fn error_rate_above_limit_fails_at_once() {
    let mut bake = bake();
    bake.record(observation(100, 20));
    assert_eq!(
        conclusion(&mut bake, Duration::from_secs(1)),
        Some(Conclusion::Fail)
    );
}

#[test]
fn one_early_error_does_not_fail() {
    let mut bake = bake();
    bake.record(observation(1, 1));
    assert_eq!(conclusion(&mut bake, Duration::from_secs(1)), None);
}

#[test]
fn failed_checks_count_only_consecutively() {
    let mut bake = bake();
    let bad = || Observation {
        health: Some(Err("timed out".to_owned())),
        ..observation(30, 0)
    };
    bake.record(bad());
    bake.record(bad());
    bake.record(observation(30, 0));
    bake.record(bad());
    bake.record(bad());
    assert_eq!(conclusion(&mut bake, Duration::from_secs(5)), None);
    bake.record(bad());
    assert_eq!(
        conclusion(&mut bake, Duration::from_secs(6)),
        Some(Conclusion::Fail)
    );
}

#[test]
fn failed_test_request_counts_as_failed_check() {
    let mut bake = bake();
    for _ in 0..3 {
        bake.record(Observation {
            request: Some(Err("timed out".to_owned())),
            ..observation(0, 0)
        });
    }
    let verdict = bake.verdict(Duration::from_secs(6)).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    assert!(
        verdict.summary.contains("test request failed: timed out"),
        "{}",
        verdict.summary
    );
}

#[test]
fn stopped_candidate_fails_at_once() {
    let mut bake = bake();
    bake.record(Observation {
        stopped: Some("exit code 3".to_owned()),
        ..observation(0, 0)
    });
    assert_eq!(
        conclusion(&mut bake, Duration::ZERO),
        Some(Conclusion::Fail)
    );
}

#[test]
fn restart_counts_as_crash() {
    let mut bake = bake();
    bake.record(observed_counters(60, 0, 8.0));
    bake.record(Observation {
        at: Duration::from_secs(1),
        ..observed_counters(2, 0, 0.5)
    });
    let verdict = bake.verdict(Duration::from_secs(2)).unwrap();
    assert!(verdict.summary.contains("crashed"), "{}", verdict.summary);
}

#[test]
fn restart_is_detected_by_falling_uptime() {
    let mut bake = bake();
    for (at, uptime) in [(0, 8.0), (1, 0.5)] {
        let health = Health {
            uptime_seconds: Some(uptime),
            ..Health::default()
        };
        bake.record(Observation {
            at: Duration::from_secs(at),
            health: Some(Ok(health)),
            ..observation(0, 0)
        });
    }
    assert_eq!(
        conclusion(&mut bake, Duration::from_secs(2)),
        Some(Conclusion::Fail)
    );
}

/// Observations of a server with four processes, each with its own counters and uptime. One was restarted at `restart`.
fn observed_processes(restart: Option<f64>) -> impl Iterator<Item = Observation> {
    (0..60_u32).map(move |second| {
        let at = f64::from(second);
        let process = u64::from(second * 7 % 4);
        let before = 3.0 + 0.3 * process as f64;
        let uptime = match restart {
            Some(restart) if process == 2 && at >= restart => at - restart,
            _ => at + before,
        };
        Observation {
            at: Duration::from_secs(u64::from(second)),
            traffic: sample(30, 0),
            ..observed_counters(100 * process + 10 * u64::from(second), 0, uptime)
        }
    })
}

#[test]
fn processes_of_a_server_are_not_a_restart() {
    let mut bake = bake();
    for observation in observed_processes(None) {
        let elapsed = observation.at;
        bake.record(observation);
        assert_eq!(conclusion(&mut bake, elapsed), None, "{elapsed:?}");
    }
    let verdict = bake.verdict(MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Pass, "{verdict:?}");
    let warning = "the release's own counters were not used";
    let mut warnings = verdict.warnings.iter();
    assert!(warnings.any(|it| it.starts_with(warning)), "{verdict:?}");
}

#[test]
fn restart_of_one_process_is_detected_by_its_uptime() {
    let mut bake = bake();
    observed_processes(Some(20.0)).for_each(|observation| bake.record(observation));
    let verdict = bake.verdict(MINUTE).unwrap();
    let expected = "it stopped: its uptime fell from 25 s to 2 s, so it crashed";
    assert!(verdict.summary.starts_with(expected), "{}", verdict.summary);
}

#[test]
fn falling_counters_without_uptime_are_not_a_restart() {
    let mut bake = bake();
    for mut observation in observed_processes(None) {
        if let Some(Ok(health)) = &mut observation.health {
            health.uptime_seconds = None;
        }
        bake.record(observation);
    }
    let verdict = bake.verdict(MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Pass, "{verdict:?}");
}

#[test]
fn counters_are_judged_by_their_increase() {
    let mut bake = bake();
    bake.record(observed_counters(1_000_000, 0, 1.0));
    bake.record(observed_counters(1_000_100, 20, 2.0));
    assert_eq!(
        conclusion(&mut bake, Duration::from_secs(2)),
        Some(Conclusion::Fail)
    );
}

#[test]
fn counters_alone_promote_without_a_log() {
    let mut bake = bake();
    bake.record(observed_counters(50, 0, 1.0));
    bake.record(observed_counters(250, 0, 2.0));
    let verdict = bake.verdict(MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Pass);
    assert!(
        verdict.summary.starts_with("by its own counters alone"),
        "{}",
        verdict.summary
    );
}

#[test]
fn successful_own_requests_alone_do_not_promote() {
    let mut bake = bake();
    for number in 0..60 {
        bake.record(Observation {
            own: Tally {
                requests: 4,
                failed: 0,
            },
            ..observed_counters(50 + 4 * number, 0, 1.0)
        });
    }
    assert_eq!(
        conclusion(&mut bake, MINUTE),
        Some(Conclusion::Inconclusive)
    );
}

#[test]
fn late_observations_are_reported() {
    let mut bake = bake();
    for at in [0, 1, 2, 10, 11] {
        let at = Duration::from_secs(at);
        bake.record(Observation {
            at,
            ..observation(100, 0)
        });
    }
    let verdict = bake.verdict(MINUTE).unwrap();
    let late = "1 of 5 observations came late";
    assert!(
        verdict.warnings.iter().any(|it| it.starts_with(late)),
        "{:?}",
        verdict.warnings
    );
}

#[test]
fn no_requests_are_inconclusive() {
    let mut bake = bake();
    bake.record(Observation::default());
    assert_eq!(
        conclusion(&mut bake, MINUTE),
        Some(Conclusion::Inconclusive)
    );
}

#[test]
fn quiet_service_gets_enough_own_requests_for_a_verdict() {
    let mut bake = bake();
    assert_eq!(bake.missing_requests(), 0);
    for number in 1..=60 {
        bake.record(observation(bake.missing_requests() as u64, 0));
        assert!(bake.missing_requests() <= 5, "observation {number}");
    }
    assert_eq!(conclusion(&mut bake, MINUTE), Some(Conclusion::Pass));
}

#[test]
fn busy_service_gets_no_own_requests() {
    let mut bake = bake();
    for requests in [100, 0, 0, 100] {
        bake.record(observation(requests, 0));
        assert_eq!(bake.missing_requests(), 0);
    }
}

#[test]
fn error_rate_within_chance_is_inconclusive() {
    let mut bake = bake();
    bake.record(observation(100, 7));
    let verdict = bake.verdict(MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
    assert!(
        verdict.summary.ends_with("which may be chance"),
        "{}",
        verdict.summary
    );
}

#[test]
fn few_requests_are_inconclusive() {
    let few = BakeSettings {
        min_requests: 20,
        ..settings()
    };
    let mut bake = Bake::new(few, TrafficSample::default(), "/predict", false);
    bake.record(observation(20, 0));
    let verdict = bake.verdict(MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
    assert!(
        verdict.summary.ends_with("too few to rule out 15.0 %"),
        "{}",
        verdict.summary
    );
}

#[test]
fn recent_errors_fail_despite_earlier_success() {
    let mut bake = bake();
    for second in 0..50 {
        bake.record(Observation {
            at: Duration::from_secs(second),
            ..observation(100, 0)
        });
    }
    assert_eq!(conclusion(&mut bake, MINUTE / 2), None);
    for second in 50..53 {
        bake.record(Observation {
            at: Duration::from_secs(second),
            ..observation(100, 40)
        });
    }
    let verdict = bake.verdict(Duration::from_secs(53)).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    assert!(
        verdict.summary.starts_with("in the last 10s, 120 of 1"),
        "{}",
        verdict.summary
    );
}

#[test]
fn inconclusive_bake_is_extended_twice() {
    let mut bake = extending_bake();
    bake.record(observation(100, 7));
    assert_eq!(conclusion(&mut bake, MINUTE), None);
    assert_eq!(bake.until(), 2 * MINUTE);
    assert_eq!(conclusion(&mut bake, MINUTE * 3 / 2), None);
    assert_eq!(conclusion(&mut bake, 2 * MINUTE), None);
    let verdict = bake.verdict(3 * MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
    assert!(
        verdict.summary.ends_with("the bake was extended twice"),
        "{}",
        verdict.summary
    );
}

#[test]
fn verdict_during_extension_ends_the_bake() {
    let mut bake = extending_bake();
    bake.record(observation(100, 7));
    assert_eq!(conclusion(&mut bake, MINUTE), None);
    bake.record(observation(1_000, 10));
    assert_eq!(conclusion(&mut bake, 2 * MINUTE), Some(Conclusion::Pass));
}

/// A sample of a release whose predictions take this long, with `yes` labels "yes" and the others "no".
fn labeled_sample(milliseconds: u64, requests: u64, yes: u64) -> TrafficSample {
    let mut sample = sample(requests, 0);
    for number in 0..requests {
        let label = if number < yes { "yes" } else { "no" };
        sample.latencies.record(Duration::from_millis(milliseconds));
        sample.add_labels(number % 100, label, 1);
    }
    sample
}

/// The verdict on `since`, compared with the traffic before the switch.
fn verdict_on(before: TrafficSample, since: TrafficSample) -> Verdict {
    let mut bake = bake_after(before);
    bake.record(Observation {
        traffic: since,
        ..observation(0, 0)
    });
    let early = bake.verdict(MINUTE / 3);
    assert!(early.is_none(), "{early:?}");
    bake.verdict(MINUTE).unwrap()
}

#[test]
fn latency_far_above_baseline_fails() {
    let verdict = verdict_on(
        labeled_sample(20, 1_000, 500),
        labeled_sample(60, 1_000, 500),
    );
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    assert!(
        verdict.summary.starts_with("clients wait longer: p99 60"),
        "{}",
        verdict.summary
    );
    let verdict = verdict_on(
        labeled_sample(20, 1_000, 500),
        labeled_sample(30, 1_000, 500),
    );
    assert_eq!(verdict.conclusion, Conclusion::Pass);
    assert!(verdict.numbers["p99_seconds"] > verdict.numbers["active_p99_seconds"]);
}

#[test]
fn label_drift_fails() {
    let verdict = verdict_on(
        labeled_sample(20, 1_000, 500),
        labeled_sample(20, 1_000, 950),
    );
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    assert!(
        verdict.summary.contains("yes 95 %, no 5 % instead of "),
        "{}",
        verdict.summary
    );
    let verdict = verdict_on(
        labeled_sample(20, 1_000, 500),
        labeled_sample(20, 1_000, 600),
    );
    assert_eq!(verdict.conclusion, Conclusion::Pass);
}

#[test]
fn candidate_that_answers_as_several_releases_fails() {
    let answered_as = |releases: &[&str]| {
        let requests: Vec<_> = releases
            .iter()
            .map(|release| Request {
                version: Some((*release).to_owned()),
                ..answered_by(Color::Green, 200)
            })
            .collect();
        TrafficSample::recent(Color::Green, &requests)
    };
    let mixed = answered_as(&["v2", "v1", "v2"]);
    let mut bake = bake_after(answered_as(&["v1"]));
    bake.record(Observation {
        traffic: mixed.clone(),
        ..observation(0, 0)
    });
    let verdict = bake.verdict(MINUTE / 3).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    assert!(
        verdict.summary.contains("v1: 1 answer") && verdict.summary.contains("v2: 2 answers"),
        "{}",
        verdict.summary
    );
    // A server that names its models in these headers did so before.
    for (before, since) in [
        (mixed.clone(), mixed),
        (answered_as(&["v1"]), answered_as(&["v2"])),
    ] {
        let verdict = verdict_on(before, since);
        assert_ne!(verdict.conclusion, Conclusion::Fail, "{}", verdict.summary);
    }
}

#[test]
fn missing_baseline_is_reported_and_not_compared() {
    let verdict = verdict_on(labeled_sample(1, 99, 50), labeled_sample(60, 1_000, 950));
    assert_eq!(verdict.conclusion, Conclusion::Pass);
    assert!(
        verdict.warnings[0].starts_with("latency was not compared: 99 requests before the switch"),
        "{:?}",
        verdict.warnings
    );
}

#[test]
fn unreadable_evidence_is_reported_and_does_not_fail() {
    let mut bake = bake();
    for number in 0..4 {
        let unread = if number % 2 == 0 {
            vec!["the log: gone".to_owned()]
        } else {
            Vec::new()
        };
        bake.record(Observation {
            unread,
            ..observation(100, 0)
        });
    }
    let verdict = bake.verdict(MINUTE).unwrap();
    assert_eq!(verdict.conclusion, Conclusion::Pass);
    assert!(
        verdict
            .warnings
            .contains(&"not read at 2 of 4 observations: the log: gone".to_owned())
    );
}

#[test]
fn requests_missing_at_the_end_make_the_bake_inconclusive() {
    for (missing_at, expected) in [(3, Conclusion::Inconclusive), (2, Conclusion::Pass)] {
        let mut bake = bake();
        for number in 0..4 {
            let missing = (number == missing_at).then(|| "the log of router r2: gone".to_owned());
            bake.record(Observation {
                missing,
                ..observation(100, 0)
            });
        }
        let extended = bake.until() + 2 * MINUTE;
        let verdict = bake.verdict(MINUTE).or_else(|| bake.verdict(extended));
        let verdict = verdict.or_else(|| bake.verdict(extended)).unwrap();
        assert_eq!(verdict.conclusion, expected, "{}", verdict.summary);
    }
}

proptest! {
    #[test]
    fn bake_always_ends_with_a_verdict(observations in prop::collection::vec((0_u64..50, 0_u64..3, any::<bool>()), 0..40)) {
        let mut bake = bake();
        for (requests, failed, checked) in observations {
            let health = checked.then(|| Ok(Health::default()));
            bake.record(Observation { health, ..observation(requests, failed.min(requests)) });
        }
        prop_assert!(bake.verdict(MINUTE).is_some());
    }

    #[test]
    fn release_without_failures_is_never_rolled_back_early(
        observations in prop::collection::vec(0_u64..50, 0..40), at in 0_u64..60,
    ) {
        let mut bake = bake();
        for requests in observations {
            bake.record(observation(requests, 0));
        }
        prop_assert_eq!(conclusion(&mut bake, Duration::from_secs(at)), None);
    }
}
