//! Verdicts on how requests ended.

use std::ops::Range;

use super::*;
use crate::{
    color::Color,
    evidence::request::{Ending, Route, answered_by},
};

/// A prediction in one of these seconds, from one of twenty clients, with one of 300 inputs.
fn request(number: u64, seconds: Range<u64>) -> Request {
    let second = seconds.start + number % (seconds.end - seconds.start);
    Request {
        at: second as f64,
        client: format!("client {}", number % 20),
        size: 100 + number % 300,
        answer_size: 90,
        label: Some("yes".to_owned()),
        ..answered_by(Color::Green, 200)
    }
}

/// What clients received within these seconds: this many requests, and those that ended in other ways than with an
/// answer.
fn endings_within(seconds: Range<u64>, requests: u64, others: &[(Ending, u64)]) -> TrafficSample {
    let mut sample = sample(requests, 0);
    let special: u64 = others.iter().map(|(_, count)| count).sum();
    let answered = [(Ending::Answered, requests - special)];
    for (ending, count) in others.iter().chain(&answered) {
        for number in 0..*count {
            let request = request(number, seconds.clone());
            sample.endings.count(&request, *ending);
        }
    }
    sample
}

/// The same within ten seconds.
fn endings(requests: u64, others: &[(Ending, u64)]) -> TrafficSample {
    endings_within(0..10, requests, others)
}

/// The verdict after one observation of this traffic.
fn judged(before: TrafficSample, since: TrafficSample) -> Option<Verdict> {
    let mut bake = bake_after(before);
    bake.record(Observation {
        traffic: since,
        ..observation(0, 0)
    });
    bake.verdict(Duration::from_secs(1))
}

#[test]
fn rise_of_refusals_or_abandoned_requests_fails_at_once() {
    for (ending, reason) in [
        (
            Ending::Refused(422),
            "it refuses requests with 422: POST /predict",
        ),
        (
            Ending::Refused(401),
            "it refuses requests with 401: POST /predict",
        ),
        (
            Ending::GaveUp,
            "clients give up before an answer: POST /predict",
        ),
    ] {
        let before = endings(1_000, &[(ending, 5)]);
        let verdict = judged(before, endings(150, &[(ending, 100)])).expect("a verdict");
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(verdict.summary.starts_with(reason), "{}", verdict.summary);
        assert!(
            verdict.summary.contains("bake.max_rise"),
            "{}",
            verdict.summary
        );
    }
}

#[test]
fn answers_that_lose_their_label_fail_at_once() {
    let mut since = endings(100, &[]);
    for number in 0..50 {
        let unlabeled = Request {
            label: None,
            ..request(number, 0..10)
        };
        since.endings.count(&unlabeled, Ending::Answered);
    }
    let verdict = judged(endings(1_000, &[]), since.clone()).expect("a verdict");
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    let reason = "its answers have no label: POST /predict, 33.3 % of 150 requests since";
    assert!(verdict.summary.starts_with(reason), "{}", verdict.summary);
    // The previous release never had labels.
    assert!(judged(since.clone(), since).is_none());
}

#[test]
fn endings_as_before_do_not_fail() {
    let usual = [(Ending::Refused(404), 30), (Ending::GaveUp, 20)];
    assert!(judged(endings(1_000, &usual), endings(1_000, &usual)).is_none());
    // Within the allowed rise.
    let more = [(Ending::Refused(404), 40), (Ending::GaveUp, 30)];
    assert!(judged(endings(1_000, &usual), endings(1_000, &more)).is_none());
}

#[test]
fn endings_are_not_compared_with_too_few_requests() {
    let refused = [(Ending::Refused(422), 40)];
    assert!(judged(endings(1_000, &[]), endings(40, &refused)).is_none());
    assert!(judged(endings(40, &[]), endings(1_000, &refused)).is_none());
}

#[test]
fn route_that_was_never_answered_is_not_judged() {
    let mut since = endings(1_000, &[]);
    let scanned = Route {
        method: "GET".to_owned(),
        path: "/.env".to_owned(),
    };
    let scan = |number| Request {
        route: scanned.clone(),
        ..request(number, 0..10)
    };
    for number in 0..500 {
        since.endings.count(&scan(number), Ending::Refused(404));
    }
    let mut before = endings(1_000, &[]);
    for number in 0..100 {
        before.endings.count(&scan(number), Ending::Refused(403));
    }
    assert!(judged(before, since).is_none());
}

#[test]
fn late_rise_is_found_in_the_window() {
    let mut bake = bake_after(endings(1_000, &[]));
    let mut verdict = None;
    for second in 0_u64..50 {
        let refused = if second < 40 { 0 } else { 10 };
        bake.record(Observation {
            at: Duration::from_secs(second),
            traffic: endings_within(
                second..second + 1,
                1_000,
                &[(Ending::Refused(422), 100 * refused / 10)],
            ),
            ..observation(0, 0)
        });
        verdict = bake.verdict(Duration::from_secs(second));
        if verdict.is_some() {
            assert!(second > 40, "{second}");
            break;
        }
    }
    assert_eq!(verdict.expect("a verdict").conclusion, Conclusion::Fail);
}

#[test]
fn short_burst_of_refusals_does_not_fail() {
    let mut since = endings(1_000, &[]);
    let burst = endings_within(3..4, 300, &[(Ending::Refused(422), 300)]);
    since.add(&burst);
    assert!(judged(endings(1_000, &[]), since).is_none());
}

#[test]
fn refusals_of_one_client_do_not_fail_if_others_send_enough() {
    let mut since = endings(1_000, &[]);
    for number in 0..200 {
        let refused = Request {
            client: "with a wrong key".to_owned(),
            ..request(number, 0..10)
        };
        since.endings.count(&refused, Ending::Refused(401));
    }
    assert!(judged(endings(1_000, &[]), since).is_none());
}

#[test]
fn kinds_of_endings_add_up() {
    let none_too_often = [
        (Ending::Refused(422), 35),
        (Ending::Refused(401), 35),
        (Ending::GaveUp, 35),
        (Ending::Failed, 35),
    ];
    let verdict = judged(endings(1_000, &[]), endings(1_000, &none_too_often));
    let verdict = verdict.expect("a verdict");
    let reason = "failed, refused, and abandoned requests together: POST /predict, 14.0 % of";
    assert!(verdict.summary.starts_with(reason), "{}", verdict.summary);
}

#[test]
fn requests_that_fail_on_both_colors_count_only_by_their_rise() {
    let both = [(Ending::BothFailed, 60)];
    let before = [(Ending::Failed, 60)];
    let failed_before = || {
        let mut sample = TrafficSample::default();
        for number in 0..1_000 {
            let failed = number < 60;
            let mut request = request(number, 0..10);
            request.status = if failed { 500 } else { 200 };
            let ending = if failed {
                before[0].0
            } else {
                Ending::Answered
            };
            sample.endings.count(&request, ending);
        }
        sample
    };
    assert!(judged(failed_before(), endings(1_000, &both)).is_none());
    let more = [(Ending::BothFailed, 180)];
    let verdict = judged(failed_before(), endings(1_000, &more)).expect("a verdict");
    assert!(
        verdict.summary.starts_with("clients receive failures"),
        "{}",
        verdict.summary
    );
}

#[test]
fn failures_on_one_route_are_not_hidden_by_another() {
    let mut since = endings(100, &[(Ending::Failed, 40)]);
    for number in 0..10_000 {
        let mut checked = request(number, 0..10);
        "/".clone_into(&mut checked.route.path);
        since.endings.count(&checked, Ending::Answered);
        since.tally.count(true);
    }
    let verdict = judged(endings(1_000, &[]), since).expect("a verdict");
    assert!(
        verdict
            .summary
            .starts_with("on POST /predict, 40 failed (for example request "),
        "{}",
        verdict.summary
    );
    assert!(
        verdict.summary.contains("): 40 of 100 requests failed"),
        "{}",
        verdict.summary
    );
}

#[test]
fn empty_answers_fail_and_equal_sizes_do_not() {
    let sized = |size| {
        let mut sample = sample(500, 0);
        for number in 0..500 {
            let answered = Request {
                answer_size: size,
                ..request(number, 0..10)
            };
            sample.endings.count(&answered, Ending::Answered);
        }
        sample
    };
    assert!(judged(sized(90), sized(200)).is_none());
    for other in [0, 500] {
        let verdict = judged(sized(90), sized(other)).expect("a verdict");
        assert!(
            verdict
                .summary
                .starts_with("its answers have another size: POST /predict"),
            "{}",
            verdict.summary
        );
        assert!(verdict.summary.contains("bake.max_size_ratio"));
    }
}

#[test]
fn labels_of_one_repeated_input_are_not_compared() {
    let mut since = TrafficSample::default();
    let before = labeled_sample(20, 1_000, 500);
    since.add_labels(100, "yes", 1_000);
    assert_eq!(since.independent_labels()["yes"], 1);
    since.tally.requests = 1_000;
    let verdict = verdict_on(before, since);
    assert_eq!(verdict.conclusion, Conclusion::Pass);
    let told = |warning: &String| warning.starts_with("labels were not compared");
    assert!(verdict.warnings.iter().any(told), "{:?}", verdict.warnings);
}

#[test]
fn rise_waits_for_the_previous_release() {
    let mut bake = Bake::new(settings(), endings(1_000, &[]), "/predict", true);
    let refused = [(Ending::Refused(422), 100)];
    let mut observe = |second: u64, copy_status: u16| {
        let at = Duration::from_secs(second);
        let pairs = (0..100).map(|number| {
            let mut original = answered_by(Color::Green, 422);
            original.id = format!("{second} {number}");
            let copy = Request {
                id: original.id.clone(),
                ..answered_by(Color::Blue, copy_status)
            };
            (original, copy)
        });
        let (originals, copies) = pairs.unzip();
        bake.record(Observation {
            at,
            traffic: endings_within(second..second + 1, 200, &refused),
            originals,
            copies,
            ..observation(0, 0)
        });
        (bake.verdict(at), bake.is_asking_previous())
    };
    assert_eq!(observe(1, 422), (None, false));
    assert_eq!(observe(2, 422), (None, true));
    for second in 3..7 {
        assert_eq!(observe(second, 422), (None, true));
    }
    // The previous release refuses the same. Ten seconds later it is asked again.
    for second in 7..17 {
        assert_eq!(observe(second, 422), (None, false), "{second}");
    }
    assert_eq!(observe(17, 200), (None, true));
    let verdict = (18..=22).find_map(|second| observe(second, 200).0);
    let verdict = verdict.expect("a verdict");
    assert_eq!(verdict.conclusion, Conclusion::Fail);
    assert!(
        verdict
            .summary
            .contains("got copies of 500 of these requests, and did the same with 0"),
        "{}",
        verdict.summary
    );
}

#[test]
fn requests_that_hang_fail_within_seconds() {
    let mut before = endings(1_000, &[]);
    for _ in 0..1_000 {
        before.waits.record(Duration::from_millis(20));
    }
    let mut bake = bake_after(before);
    let mut observe = |second: u64, hanging: u64| {
        let now = second as f64;
        bake.record(Observation {
            at: Duration::from_secs(second),
            traffic: endings_within(second..second + 1, 100, &[]),
            in_flight: Some((now, 2 + hanging)),
            ended: Some(vec![(now - 0.01, now + 0.01); 2]),
            ..observation(0, 0)
        });
        bake.verdict(Duration::from_secs(second))
    };
    for second in 0..20 {
        assert_eq!(observe(second, 0), None, "{second}");
    }
    // From here on one request in ten hangs.
    let verdict = (20..40).find_map(|second| Some((second, observe(second, 10 * (second - 19))?)));
    let (second, verdict) = verdict.expect("a verdict");
    assert!(second <= 35, "{second}");
    assert!(
        verdict.summary.starts_with("requests hang: "),
        "{}",
        verdict.summary
    );
}

#[test]
fn missing_reading_of_requests_in_flight_looks_like_no_rise() {
    let mut before = endings(1_000, &[]);
    for _ in 0..1_000 {
        before.waits.record(Duration::from_millis(20));
    }
    let mut bake = bake_after(before);
    for second in 0..58 {
        let now = second as f64;
        // Three requests in two hundred hang, fewer than `max_rise` allows.
        let reading = Some((now, second * 3 / 2)).filter(|_| second != 46);
        bake.record(Observation {
            at: Duration::from_secs(second),
            traffic: endings_within(second..second + 1, 100, &[]),
            in_flight: reading,
            ended: Some(Vec::new()),
            ..observation(0, 0)
        });
        let verdict = bake.verdict(Duration::from_secs(second));
        assert_eq!(verdict, None, "{second}");
    }
}
