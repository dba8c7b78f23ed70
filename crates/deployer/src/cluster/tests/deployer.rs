//! The deployer's side, rule by rule.

use std::time::Duration;

use super::world::LIMITS;
use crate::{
    cluster::{
        Truth,
        change::{
            Action, Decide, DecideOutcome, Event, FencedChange, FlagEdit, Message, Outcome,
            RefusedBecause, Settled,
        },
        message::{Release, RouterReport, Undecided},
    },
    color::Color,
    ports::{PortError, RouterEntry, Version, WriteError},
};

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn version(number: u64) -> Version {
    Version(number.to_string())
}

fn lost() -> PortError {
    PortError::TimedOut("no answer in 1 s".to_owned())
}

fn to_green() -> FlagEdit {
    FlagEdit {
        active: Some(Color::Green),
        ..FlagEdit::default()
    }
}

fn report(question: u64) -> RouterReport {
    RouterReport {
        name: "r0".to_owned(),
        incarnation: 1,
        generation: Some(1),
        promised: Some(2),
        open: true,
        flags: None,
        active: Some(Color::Blue),
        in_flight: Some(0),
        question,
        refusal: None,
    }
}

fn reported(number: u64, report: RouterReport) -> Event {
    let router = "r0".to_owned();
    Event::Reported {
        router,
        number,
        report,
    }
}

fn entry() -> RouterEntry {
    RouterEntry {
        name: "r0".to_owned(),
        url: String::new(),
        incarnation: 1,
    }
}

/// A change that is prepared at version 2, and asked the router `r0` for its promise.
fn prepared() -> FencedChange {
    let (mut change, _) = FencedChange::begin(to_green(), "test", LIMITS, at(0));
    let _ = change.handle(Event::Read(Ok((Truth::default(), version(1)))), at(0));
    let listing = change.handle(Event::Replaced(Ok(version(2))), at(0));
    assert_eq!(listing, [Action::List]);
    let asked = change.handle(Event::Listed(Ok(vec![entry()])), at(0));
    assert!(matches!(
        asked[..],
        [Action::Send {
            number: 1,
            message: Message::Prepare(_),
            ..
        }]
    ));
    change
}

/// A change whose commit is under way.
fn committing() -> FencedChange {
    let mut change = prepared();
    let commit = change.handle(reported(1, report(1)), at(1));
    assert!(
        matches!(&commit[..], [Action::Replace(at, truth)] if *at == version(2) && truth.generation == 2)
    );
    change
}

fn undecided(actions: &[Action]) -> Vec<Undecided> {
    let answer = |action: &Action| match action {
        Action::Send {
            message: Message::Undecided(undecided),
            ..
        } => Some(*undecided),
        _ => None,
    };
    actions.iter().filter_map(answer).collect()
}

#[test]
fn questions_are_answered_until_commit_is_known() {
    let mut change = committing();
    let (generation, question) = (2, 1);
    assert_eq!(
        undecided(&change.handle(Event::Tick, at(30))),
        [Undecided {
            generation,
            question
        }]
    );
    assert_eq!(
        undecided(&change.handle(Event::Tick, at(60))),
        [],
        "each question is answered once"
    );
    let _ = change.handle(reported(2, report(2)), at(70));
    let _ = change.handle(Event::Replaced(Ok(version(3))), at(80));
    let _ = change.handle(reported(2, report(3)), at(85));
    assert_eq!(undecided(&change.handle(Event::Tick, at(90))), []);
}

#[test]
fn closed_router_is_settled_only_by_answer_to_later_message() {
    let mut change = committing();
    let pushed = change.handle(Event::Replaced(Ok(version(3))), at(10));
    let [
        Action::Send {
            number,
            message: Message::Apply(_),
            ..
        },
    ] = pushed[..]
    else {
        panic!("{pushed:?}");
    };
    let closed = RouterReport {
        open: false,
        ..report(2)
    };
    let _ = change.handle(reported(number - 1, closed.clone()), at(20));
    assert_eq!(change.outcome(), None);
    let _ = change.handle(reported(number, closed), at(30));
    let Some(Outcome::Done { settled, .. }) = change.outcome() else {
        panic!("{:?}", change.outcome());
    };
    assert_eq!(
        *settled,
        Settled {
            closed: vec!["r0".to_owned()],
            ..Settled::default()
        }
    );
}

#[test]
fn silent_router_is_waited_out_for_a_tenth_more_than_fence() {
    let mut change = committing();
    let _ = change.handle(Event::Replaced(Ok(version(3))), at(100));
    let _ = change.handle(Event::Tick, at(429));
    assert_eq!(change.outcome(), None);
    let _ = change.handle(Event::Tick, at(430));
    let Some(Outcome::Done { settled, .. }) = change.outcome() else {
        panic!("{:?}", change.outcome());
    };
    assert_eq!(settled.waited_out, ["r0"]);
}

#[test]
fn commit_without_answer_is_aborted_on_same_version_if_still_prepared() {
    let mut change = committing();
    let reading = change.handle(Event::Replaced(Err(WriteError::Unknown(lost()))), at(10));
    assert_eq!(reading, [Action::Read]);
    let truth = Truth::default().prepare(to_green().apply(Truth::default().flags), "test");
    let abort = change.handle(Event::Read(Ok((truth.clone(), version(2)))), at(20));
    assert_eq!(
        abort,
        [Action::Replace(version(2), truth.decide(truth.flags))]
    );
    let reading = change.handle(Event::Replaced(Err(WriteError::Conflict)), at(30));
    assert_eq!(reading, [Action::Read]);
    let committed = truth.decide(to_green().apply(truth.flags));
    let _ = change.handle(Event::Read(Ok((committed, version(3)))), at(40));
    let applied = RouterReport {
        generation: Some(2),
        ..report(2)
    };
    let _ = change.handle(reported(9, applied), at(50));
    assert!(
        matches!(change.outcome(), Some(Outcome::Done { .. })),
        "the late commit won"
    );
}

#[test]
fn store_that_stays_away_ends_in_release_and_unknown_outcome() {
    let mut change = committing();
    let _ = change.handle(Event::Replaced(Err(WriteError::Unknown(lost()))), at(10));
    let _ = change.handle(Event::Read(Err(lost())), at(20));
    let released = change.handle(Event::Tick, at(610));
    let release = Message::Release(Release { generation: 2 });
    assert!(
        matches!(&released[..], [Action::Send { message, .. }] if *message == release),
        "{released:?}"
    );
    let error = lost().to_string();
    assert_eq!(change.outcome(), Some(&Outcome::Unknown { error }));
}

#[test]
fn missing_promise_aborts_and_names_router() {
    let mut change = prepared();
    let refused = RouterReport {
        refusal: Some("its nginx does not answer".to_owned()),
        promised: None,
        ..report(1)
    };
    let _ = change.handle(reported(1, refused), at(10));
    let abort = change.handle(Event::Tick, at(400));
    assert!(matches!(&abort[..], [Action::Replace(_, truth)] if truth.flags.active == Color::Blue));
    let _ = change.handle(Event::Replaced(Ok(version(3))), at(410));
    let _ = change.handle(
        reported(
            9,
            RouterReport {
                generation: Some(2),
                ..report(2)
            },
        ),
        at(420),
    );
    let why = RefusedBecause::NoPromise("r0".to_owned(), "its nginx does not answer".to_owned());
    assert_eq!(
        why.to_string(),
        "router r0 did not promise: its nginx does not answer"
    );
    let (because, left_prepared) = (vec![why], false);
    assert_eq!(
        change.outcome(),
        Some(&Outcome::Refused {
            because,
            left_prepared
        })
    );
}

#[test]
fn roll_back_decides_over_prepared_change_after_conflict() {
    let truth = Truth::default().prepare(to_green().apply(Truth::default().flags), "another");
    let edit = FlagEdit {
        active: Some(Color::Blue),
        ..FlagEdit::default()
    };
    let (mut fit, _) = Decide::begin(FlagEdit::default(), false, LIMITS, at(0));
    let _ = fit.handle(Event::Read(Ok((truth.clone(), version(2)))), at(0));
    let by = "another".to_owned();
    assert_eq!(fit.outcome(), Some(&DecideOutcome::OtherPrepared { by }));
    let (mut back, _) = Decide::begin(edit, true, LIMITS, at(0));
    let _ = back.handle(
        Event::Read(Ok((Truth::default().prepare(truth.flags, "x"), version(1)))),
        at(0),
    );
    assert_eq!(
        back.handle(Event::Replaced(Err(WriteError::Conflict)), at(1)),
        [Action::Read]
    );
    let write = back.handle(Event::Read(Ok((truth.clone(), version(2)))), at(2));
    let decided = truth.decide(truth.flags);
    assert_eq!(write, [Action::Replace(version(2), decided.clone())]);
    assert_eq!(
        back.handle(Event::Replaced(Ok(version(3))), at(3)),
        [Action::List]
    );
    let _ = back.handle(Event::Listed(Ok(vec![entry()])), at(4));
    let _ = back.handle(Event::Tick, at(333));
    let Some(DecideOutcome::Decided {
        truth,
        settled: Some(settled),
    }) = back.outcome()
    else {
        panic!("{:?}", back.outcome());
    };
    assert_eq!(
        (truth, &settled.waited_out[..]),
        (&decided, &["r0".to_owned()][..])
    );
}
