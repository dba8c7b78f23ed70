//! One router, rule by rule.

use std::time::Duration;

use super::world::TIMING;
use crate::{
    cluster::{
        Truth,
        message::{Prepare, Release, Undecided},
        router_state::{NginxState, Refusal, RouterState},
        truth::RouterFlags,
    },
    color::Color,
};

const NGINX: NginxState = NginxState {
    active: Some(Color::Blue),
    in_flight: Some(0),
    reaches: true,
};

fn at(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn green() -> RouterFlags {
    RouterFlags {
        active: Color::Green,
        ..RouterFlags::default()
    }
}

fn prepare(generation: u64) -> Prepare {
    Prepare {
        generation,
        flags: green(),
        must_reach: Some(Color::Green),
        fence: TIMING.fence,
    }
}

/// A router that read `truth` and obeys it.
fn reader(truth: &Truth) -> RouterState {
    let mut router = RouterState::new(TIMING);
    router.registered();
    let question = router.ask(at(0));
    router.read_answered(question, truth, at(0));
    router.confirmed(truth.generation);
    router
}

/// An open router that promised for generation 2 at 1,000 ms.
fn promised() -> RouterState {
    let mut router = reader(&Truth::default());
    router.prepare(&prepare(2), NGINX, at(1000)).unwrap();
    router
}

#[test]
fn fence_counts_from_first_promise_and_from_questions() {
    let mut router = promised();
    assert_eq!(router.closes_at(), Some(at(1300)));
    router.prepare(&prepare(2), NGINX, at(1200)).unwrap();
    assert_eq!(
        router.closes_at(),
        Some(at(1300)),
        "a second message does not extend it"
    );
    let read = router.ask(at(1100));
    let report = router.report("r", 1, NGINX, None, at(1150));
    router.read_answered(read, &Truth::default(), at(1250));
    assert_eq!(router.closes_at(), Some(at(1400)));
    let generation = 2;
    router.undecided(
        Undecided {
            generation,
            question: report.question,
        },
        at(1250),
    );
    assert_eq!(router.closes_at(), Some(at(1450)));
    router.undecided(
        Undecided {
            generation: 3,
            question: report.question + 1,
        },
        at(1260),
    );
    assert_eq!(
        router.closes_at(),
        Some(at(1450)),
        "nobody asked this question"
    );
    assert!(router.is_open(at(1449)) && !router.is_open(at(1450)));
}

#[test]
fn closed_report_voids_earlier_questions() {
    let mut router = promised();
    let before = router.ask(at(1290));
    assert!(!router.report("r", 1, NGINX, None, at(1300)).open);
    router.read_answered(before, &Truth::default(), at(1310));
    assert!(
        !router.is_open(at(1310)),
        "the deployer counts on the report"
    );
    let after = router.ask(at(1320));
    router.read_answered(after, &Truth::default(), at(1330));
    assert!(
        router.is_open(at(1330)),
        "the change was undecided after the report"
    );
}

#[test]
fn decision_keeps_deadline_until_nginx_confirms() {
    let mut router = promised();
    let committed = Truth::default().decide(green());
    router.apply(&committed, at(1200)).unwrap();
    assert_eq!(router.closes_at(), Some(at(1300)));
    assert_eq!(router.to_write(), Some((2, green())));
    router.confirmed(2);
    assert_eq!((router.closes_at(), router.to_write()), (None, None));
    let back = committed.decide(RouterFlags::default());
    router.apply(&back, at(2000)).unwrap();
    assert_eq!(
        router.closes_at(),
        Some(at(2300)),
        "it does not serve what it knows to be wrong"
    );
}

#[test]
fn abort_ends_fence_at_once() {
    let mut router = promised();
    router
        .apply(&Truth::default().decide(RouterFlags::default()), at(1200))
        .unwrap();
    assert_eq!((router.closes_at(), router.promised()), (None, None));
    let refusal = router.prepare(&prepare(2), NGINX, at(1210));
    assert_eq!(refusal, Err(Refusal::Decided { generation: 2 }));
}

#[test]
fn agent_that_starts_during_change_stays_closed_until_decision() {
    let prepared = Truth::default().prepare(green(), "a deployer");
    let mut router = reader(&prepared);
    assert_eq!(router.promised(), Some(2));
    router.release(Release { generation: 2 });
    for time in [10, 500] {
        let question = router.ask(at(time));
        router.read_answered(question, &prepared, at(time));
        assert!(!router.is_open(at(time)));
    }
    let question = router.ask(at(600));
    router.read_answered(question, &Truth::default().decide(green()), at(600));
    assert!(!router.is_open(at(600)), "nginx has not confirmed yet");
    router.confirmed(2);
    assert!(router.is_open(at(600)));
}

#[test]
fn promise_before_first_read_keeps_router_closed() {
    let mut router = RouterState::new(TIMING);
    router.registered();
    let question = router.ask(at(0));
    router.prepare(&prepare(2), NGINX, at(10)).unwrap();
    router.read_answered(question, &Truth::default(), at(20));
    router.confirmed(1);
    assert!(
        !router.is_open(at(20)),
        "the answer is from before the change"
    );
}

#[test]
fn only_own_read_after_registration_opens_router() {
    let mut router = RouterState::new(TIMING);
    let early = router.ask(at(0));
    router.registered();
    router.read_answered(early, &Truth::default(), at(10));
    assert_eq!(router.to_write(), None);
    router.apply(&Truth::default(), at(10)).unwrap();
    router.confirmed(1);
    assert!(!router.is_open(at(10)));
    let question = router.ask(at(20));
    router.read_answered(question, &Truth::default(), at(30));
    assert!(router.is_open(at(30)));
    router.terminate();
    assert!(!router.is_open(at(30)));
}

#[test]
fn router_that_missed_a_generation_does_not_promise() {
    let mut router = reader(&Truth::default());
    let (own, needed) = (Some(1), 2);
    assert_eq!(
        router.prepare(&prepare(3), NGINX, at(10)),
        Err(Refusal::Behind { own, needed })
    );
    let second = Truth::default().decide(RouterFlags {
        fit_green: true,
        ..RouterFlags::default()
    });
    router.apply(&second, at(20)).unwrap();
    assert!(
        router.prepare(&prepare(3), NGINX, at(20)).is_err(),
        "its nginx has not confirmed"
    );
    router.confirmed(2);
    assert_eq!(router.prepare(&prepare(3), NGINX, at(30)), Ok(()));
    let (message, known) = (1, 2);
    assert_eq!(
        router.apply(&Truth::default(), at(40)),
        Err(Refusal::Older { message, known })
    );
}

#[test]
fn router_refuses_promise_if_its_nginx_is_not_ready() {
    let refusal = |nginx| reader(&Truth::default()).prepare(&prepare(2), nginx, at(10));
    assert_eq!(
        refusal(NginxState {
            active: None,
            ..NGINX
        }),
        Err(Refusal::NginxSilent)
    );
    let (nginx, flags) = (Color::Green, Color::Blue);
    let disagrees = Err(Refusal::NginxDisagrees { nginx, flags });
    assert_eq!(
        refusal(NginxState {
            active: Some(nginx),
            ..NGINX
        }),
        disagrees
    );
    let unreached = Err(Refusal::Unreached(Color::Green));
    assert_eq!(
        refusal(NginxState {
            reaches: false,
            ..NGINX
        }),
        unreached
    );
}

#[test]
fn release_ends_fence_and_late_prepare_does_not_renew_it() {
    let mut router = promised();
    router.release(Release { generation: 2 });
    assert!(router.is_open(at(9000)));
    let generation = 2;
    assert_eq!(
        router.prepare(&prepare(2), NGINX, at(9000)),
        Err(Refusal::Released { generation })
    );
}

#[test]
fn router_that_obeys_an_older_push_stays_closed_until_nginx_confirms_its_first_read() {
    let mut router = RouterState::new(TIMING);
    router.apply(&Truth::default(), at(0)).unwrap();
    router.confirmed(1);
    router.registered();
    let question = router.ask(at(100));
    let newer = Truth::default().decide(green());
    router.read_answered(question, &newer, at(100));
    assert!(!router.is_open(at(100)));
    router.confirmed(2);
    assert!(router.is_open(at(100)));
}

#[test]
fn router_with_a_longer_fence_than_the_deployer_does_not_promise() {
    let mut router = reader(&Truth::default());
    let message = |fence| Prepare {
        fence,
        ..prepare(2)
    };
    let shorter = TIMING.fence / 2;
    assert_eq!(
        router.prepare(&message(shorter), NGINX, at(100)),
        Err(Refusal::LongerFence {
            own: TIMING.fence,
            deployer: shorter
        })
    );
    assert_eq!(router.promised(), None);
    let longer = TIMING.fence * 2;
    assert_eq!(router.prepare(&message(longer), NGINX, at(100)), Ok(()));
}

#[test]
fn release_of_a_later_change_does_not_end_the_fence() {
    let mut router = promised();
    // The router missed how its change was decided, and would serve what was before.
    router.release(Release { generation: 3 });
    assert!(!router.is_open(at(9000)));
}

#[test]
fn abandoned_change_is_aborted_after_silence_of_its_deployer() {
    let prepared = Truth::default().prepare(green(), "a deployer");
    let mut router = reader(&Truth::default());
    let question = router.ask(at(100));
    router.read_answered(question, &prepared, at(100));
    assert_eq!(
        router.closes_at(),
        None,
        "a router that did not promise needs no fence"
    );
    router.undecided(
        Undecided {
            generation: 2,
            question: 0,
        },
        at(500),
    );
    assert_eq!(router.abort_of(&prepared, at(1499)), None);
    let aborted = Truth::default().decide(RouterFlags::default());
    assert_eq!(router.abort_of(&prepared, at(1500)), Some(aborted.clone()));
    assert_eq!(router.abort_of(&aborted, at(1500)), None);
}
