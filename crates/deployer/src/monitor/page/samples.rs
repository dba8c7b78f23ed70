//! Views of the page in each situation, for tests. `PAGE_SAMPLES=DIRECTORY cargo nextest run page_samples` writes them as files.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    evidence::{
        details::Flip,
        latency::Bin,
        request::{Request, answered_by},
        verdict::Conclusion,
    },
    monitor::page::{
        figures::Figures,
        traffic::{Limits, RecentTraffic, TrafficMoved, TrafficRing},
        view::{ColorCard, HistoryView, PageView, Rollback, RoundView},
    },
    release::Release,
    report::{
        event_line::{EventLine, LoggedEvent},
        record::{GateRecord, Record},
    },
    state::{
        action::Action, approval::ApprovalDecision, history::HistoryEntry, lock_holder::LockHolder,
    },
};

const DIGEST: &str = "4f2a9c1be07d66351fa5f0d2a94a8c1d9be0577a5be64b0c7a0ad1e3c8d94e21";
/// 2026-03-04 09:30:00 in UTC.
const BEGAN: i64 = 1_772_616_600;

pub(super) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + seconds).unwrap()
}

/// A situation that the page shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Situation {
    Empty,
    Testing,
    WaitingBeforeSwitch,
    Baking,
    Promoted,
    Refused,
    RolledBack,
    Interrupted,
}

impl Situation {
    pub(super) const ALL: [Self; 8] = [
        Self::Empty,
        Self::Testing,
        Self::WaitingBeforeSwitch,
        Self::Baking,
        Self::Promoted,
        Self::Refused,
        Self::RolledBack,
        Self::Interrupted,
    ];
}

pub(super) fn plan() -> Plan {
    let release = Release {
        model: "sentiment".to_owned(),
        version: "v2.4.0".to_owned(),
        digest: Some(DIGEST.to_owned()),
    };
    Plan::new(at(0), Color::Blue, release)
}

fn note(text: &str) -> LoggedEvent {
    LoggedEvent::Note {
        text: text.to_owned(),
    }
}

fn phase(phase: Phase, reason: Option<&str>) -> LoggedEvent {
    LoggedEvent::PhaseReached {
        phase,
        reason: reason.map(str::to_owned),
    }
}

fn bins(shift: f64) -> Vec<Bin> {
    let counts = [2, 9, 31, 68, 90, 71, 40, 22, 9, 4, 2, 1];
    let bins = (0..).zip(counts).map(|(place, count)| Bin {
        from: 0.004 * shift * 1.25_f64.powi(place),
        to: 0.004 * shift * 1.25_f64.powi(place + 1),
        count,
    });
    bins.collect()
}

fn gate(name: &str, verdict: Conclusion, summary: &str, numbers: &[(&str, f64)]) -> LoggedEvent {
    let numbers = numbers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value));
    LoggedEvent::GateFinished(GateRecord {
        gate: name.to_owned(),
        started: None,
        finished: at(0),
        verdict,
        summary: summary.to_owned(),
        numbers: numbers.collect(),
        warnings: Vec::new(),
        active_latency: Vec::new(),
        candidate_latency: Vec::new(),
        curve: Vec::new(),
        errors: BTreeMap::new(),
        flips: Vec::new(),
    })
}

fn flip(input: &str, expect: Option<&str>) -> Flip {
    Flip {
        input: input.to_owned(),
        active: "positive".to_owned(),
        candidate: "negative".to_owned(),
        active_confidence: Some(0.97),
        candidate_confidence: Some(0.91),
        expect: expect.map(str::to_owned),
    }
}

fn warmed() -> LoggedEvent {
    let mut warmed = gate(
        "warm",
        Conclusion::Pass,
        "level after 60 requests: median 6.10 ms, at first 48.0 ms",
        &[
            ("requests", 60.0),
            ("failed", 0.0),
            ("median_seconds", 0.0061),
        ],
    );
    if let LoggedEvent::GateFinished(judged) = &mut warmed {
        judged.curve = (0..60)
            .map(|place| 0.006 + 0.05 / f64::from(1 + place))
            .collect();
    }
    warmed
}

fn tested(agreement: Conclusion) -> Vec<LoggedEvent> {
    let mut disagrees = gate(
        "agreement",
        agreement,
        "the same label on 471 of 480 inputs (98.1 %)",
        &[
            ("inputs", 480.0),
            ("flips", 9.0),
            ("agreement", 0.981),
            ("agreement_minimum", 0.95),
        ],
    );
    if let LoggedEvent::GateFinished(judged) = &mut disagrees {
        judged
            .warnings
            .push("it disagrees with the active release on 9 of 480 inputs".to_owned());
        judged.flips = vec![
            flip(
                "{\"text\":\"Not the worst evening I have had in a cinema.\"}",
                Some("positive"),
            ),
            flip(
                "{\"text\":\"I would sit through it again, and that says a lot.\"}",
                None,
            ),
        ];
    }
    let mut compared = gate(
        "comparison",
        Conclusion::Pass,
        "p50 1.04 times the active release's 6.10 ms (99 % sure of 0.98 to 1.11; 1.82 allowed), p99 1.09 times the active release's 21.4 ms (99 % sure of 0.91 to 1.32; 1.50 allowed)",
        &[
            ("pairs", 812.0),
            ("failed", 0.0),
            ("p50_ratio", 1.04),
            ("p50_ratio_low", 0.98),
            ("p50_ratio_high", 1.11),
            ("p50_ratio_limit", 1.82),
            ("p99_ratio", 1.09),
            ("p99_ratio_low", 0.91),
            ("p99_ratio_high", 1.32),
            ("p99_ratio_limit", 1.5),
        ],
    );
    if let LoggedEvent::GateFinished(judged) = &mut compared {
        (judged.active_latency, judged.candidate_latency) = (bins(1.0), bins(1.06));
    }
    vec![
        gate(
            "identity",
            Conclusion::Pass,
            "sentiment v2.4.0 with the wanted digest",
            &[],
        ),
        gate(
            "smoke",
            Conclusion::Pass,
            "0 of 50 requests failed (0.0 %)",
            &[
                ("requests", 50.0),
                ("failed", 0.0),
                ("error_rate", 0.0),
                ("error_rate_limit", 0.05),
            ],
        ),
        gate(
            "golden",
            Conclusion::Pass,
            "right on 447 of 480 inputs (93.1 %); 0.4 % fewer than the active release",
            &[
                ("inputs", 480.0),
                ("accuracy", 0.931),
                ("accuracy_minimum", 0.7),
                ("drop", 0.004),
                ("drop_low", -0.009),
                ("drop_high", 0.018),
                ("drop_limit", 0.03),
            ],
        ),
        disagrees,
        warmed(),
        compared,
        gate(
            "shadow",
            Conclusion::Skipped,
            "the router's log of copies is not set",
            &[],
        ),
    ]
}

fn events(situation: Situation) -> Vec<LoggedEvent> {
    let refused = situation == Situation::Refused;
    let agreement = if refused {
        Conclusion::Fail
    } else {
        Conclusion::Pass
    };
    let mut events = vec![
        LoggedEvent::Planned { plan: plan() },
        phase(Phase::Planned, None),
        phase(Phase::Starting, None),
        LoggedEvent::AwaitingHealth {
            elapsed_seconds: 42.0,
            without_progress_seconds: 3.0,
            stall_seconds: 30.0,
            reason: "connection refused".to_owned(),
            last_line: Some("Loading shards:  40% Completed | 2/5".to_owned()),
        },
        phase(Phase::Healthy, None),
        note("the hook after healthy printed 3 lines"),
    ];
    events.extend(tested(agreement));
    match situation {
        Situation::Empty => return Vec::new(),
        Situation::Testing => {
            events.truncate(10);
            events.push(LoggedEvent::GateStarted {
                gate: "comparison".to_owned(),
            });
            return events;
        }
        Situation::Refused => {
            events.push(phase(
                Phase::Refused,
                Some("agreement: the same label on 471 of 480 inputs (98.1 %)"),
            ));
            return events;
        }
        _ => events.push(phase(Phase::Validated, None)),
    }
    let awaited = |before| LoggedEvent::ApprovalAwaited {
        before,
        evidence: DIGEST.to_owned(),
        expires: at(3_700),
    };
    events.push(awaited(Phase::Switched));
    if situation == Situation::WaitingBeforeSwitch {
        return events;
    }
    events.push(LoggedEvent::ApprovalDecided {
        before: Phase::Switched,
        decision: ApprovalDecision::Approved,
        by: Some("ada (page)".to_owned()),
        reason: Some("figures are as announced".to_owned()),
    });
    let (from, to) = (Color::Blue, Color::Green);
    events.push(LoggedEvent::TrafficMoved {
        from,
        to,
        unconfirmed: Vec::new(),
    });
    events.push(phase(Phase::Switched, None));
    events.push(LoggedEvent::BakeObserved {
        elapsed_seconds: 34.0,
        of_seconds: 60.0,
        requests: 1_422,
        failed: 3,
        trouble: None,
    });
    let bake = |verdict, summary, rate, low, high| {
        gate(
            "bake",
            verdict,
            summary,
            &[
                ("requests", 2_508.0),
                ("error_rate", rate),
                ("error_rate_low", low),
                ("error_rate_high", high),
                ("error_rate_limit", 0.05),
            ],
        )
    };
    if situation == Situation::Promoted {
        let summary = "5 of 2508 requests failed (0.2 %)";
        events.push(bake(Conclusion::Pass, summary, 0.002, 0.0007, 0.0056));
        events.push(phase(
            Phase::Promoted,
            Some("5 of 2508 requests failed (0.2 %)"),
        ));
    } else if situation == Situation::RolledBack {
        let summary =
            "271 of 2508 requests failed (10.8 %, at most 5.0 % allowed) (bake.max_error_rate)";
        events.push(bake(Conclusion::Fail, summary, 0.108, 0.0931, 0.1251));
        events.push(phase(Phase::RolledBack, Some(summary)));
    }
    events
}

/// The record of a deployment in this situation.
pub(super) fn record(situation: Situation) -> Option<Record> {
    let mut record = None;
    for (seconds, event) in (0..).zip(events(situation)) {
        let at = at(seconds * 7);
        Record::fold(&mut record, &EventLine { event, at });
    }
    record
}

fn history() -> Vec<HistoryEntry> {
    let ended = |days: i64, action, version: &str, color, reason: &str| HistoryEntry {
        id: Some(format!("20260301T0930{:02}.000Z-{version}", 30 - days)),
        seconds: Some(148.0),
        by: "ci@builder".to_owned(),
        ..HistoryEntry::of_color(
            action,
            color,
            Some(version.to_owned()),
            at(-days * 86_400),
            reason.to_owned(),
        )
    };
    let (blue, green) = (Color::Blue, Color::Green);
    vec![
        ended(
            21,
            Action::Promoted,
            "v2.2.0",
            green,
            "2 of 2931 requests failed (0.1 %)",
        ),
        ended(
            14,
            Action::Refused,
            "v2.3.0",
            blue,
            "golden: right on 391 of 480 inputs (81.5 %), 11.7 % fewer than the active release",
        ),
        ended(
            13,
            Action::RolledBack,
            "v2.3.1",
            blue,
            "p99 3.1 times the active release's (bake.max_ratio)",
        ),
        ended(
            9,
            Action::Promoted,
            "v2.3.2",
            blue,
            "0 of 2210 requests failed (0.0 %)",
        ),
        HistoryEntry::of_color(
            Action::Stopped,
            green,
            None,
            at(-9 * 86_400),
            "no request was interrupted".to_owned(),
        ),
    ]
}

/// The traffic until the end of the deployment.
fn traffic(situation: Situation) -> RecentTraffic {
    let now = 160;
    let switched = 119;
    let has_switched = situation >= Situation::Baking && situation != Situation::Refused;
    let mut ring = TrafficRing::default();
    let mut requests = Vec::new();
    for second in -740..now {
        let of_green = has_switched && second >= switched;
        let color = if of_green { Color::Green } else { Color::Blue };
        // A day's rise and fall, within minutes.
        let rate = 18.0 + 9.0 * (second as f64 / 150.0).sin() + 3.0 * (second as f64 / 11.0).cos();
        #[expect(clippy::cast_possible_truncation, reason = "a few requests a second")]
        for place in 0..rate as i64 {
            let wave = 1.0 + (second * 7 + place * 13).rem_euclid(97) as f64 / 60.0;
            let slow = if place == 0 && second % 3 == 0 {
                5.0
            } else {
                1.0
            };
            let status = match (second * 31 + place * 17).rem_euclid(400) {
                0 => 500,
                1 | 2 => 422,
                3 | 4 if of_green => 502,
                _ => 200,
            };
            requests.push(Request {
                at: (BEGAN + second) as f64 + place as f64 / 40.0,
                waited: Duration::from_secs_f64(0.0055 * wave * slow),
                ..answered_by(color, status)
            });
        }
    }
    ring.add(&requests, at(now));
    let mut moves = Vec::new();
    if has_switched {
        moves.push(TrafficMoved {
            at: at(switched),
            to: Color::Green,
        });
    }
    ring.view(
        at(now),
        moves,
        Limits {
            max_error_rate: 0.05,
        },
    )
}

/// The page in this situation.
pub(super) fn view(situation: Situation) -> PageView {
    let record = record(situation);
    let works = matches!(
        situation,
        Situation::Testing | Situation::WaitingBeforeSwitch | Situation::Baking
    );
    let on_green = matches!(
        situation,
        Situation::Baking | Situation::Promoted | Situation::Interrupted
    );
    let card = |version: &str, fit| ColorCard {
        version: Some(version.to_owned()),
        digest: Some(DIGEST.to_owned()),
        trouble: None,
        fit: Some(fit),
        is_proven: !fit,
    };
    let mut cards = [
        card("v2.3.2", true),
        card("v2.4.0", situation == Situation::Promoted),
    ];
    if situation == Situation::Refused {
        cards[1] = ColorCard {
            trouble: Some(
                "cannot reach http://127.0.0.1:8082/health: connection refused".to_owned(),
            ),
            fit: Some(false),
            ..ColorCard::default()
        };
    }
    let entries = if situation == Situation::Empty {
        Vec::new()
    } else {
        history()
    };
    let figures = Figures::of(
        &entries,
        &entries
            .iter()
            .filter_map(|it| {
                Some((
                    it.id.clone()?,
                    it.at.checked_sub(jiff::Span::new().seconds(42)).ok()?,
                ))
            })
            .collect(),
        at(160),
    );
    PageView {
        holder: works.then(|| LockHolder {
            command: "deploy v2.4.0".to_owned(),
            by: "ci@builder".to_owned(),
            pid: 4711,
            since: at(-2),
        }),
        active: Some(if on_green { Color::Green } else { Color::Blue }),
        deployment: record.map(Arc::new),
        position: 4_242,
        round: RoundView {
            checked: Some(at(160)),
            model: "sentiment".to_owned(),
            router: "http://127.0.0.1:8080".to_owned(),
            router_trouble: None,
            routers: Vec::new(),
            colors: cards,
            in_flight: Some(7),
            interrupted: (situation == Situation::Interrupted)
                .then(|| "Deployment 20260304T093000.000Z-v2.4.0 was interrupted: `deployer recover` completes it.".to_owned()),
            rollback: if situation == Situation::Promoted {
                Rollback::To(Color::Blue, "v2.3.2".to_owned())
            } else {
                Rollback::Impossible("green may not stand in, so there is nothing to roll back to".to_owned())
            },
            traffic: Arc::new(if situation == Situation::Empty { RecentTraffic::default() } else { traffic(situation) }),
            history: Arc::new(HistoryView { entries, figures }),
        },
    }
}
