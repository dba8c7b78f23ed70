use std::{collections::BTreeMap, fs, pin::pin, task::Poll};

use futures_util::poll;

use super::*;
use crate::{
    event::{Event as Emitted, Reporter as _},
    monitor::page::samples::{self, Situation},
    report::Recorder,
};

fn viewing(live: &Live, last_event_id: Option<&str>) -> Viewing {
    Viewing {
        views: live.views.subscribe(),
        may_act: true,
        known: last_event_id.map(digests_in).unwrap_or_default(),
        not_before: Instant::now(),
    }
}

fn ids(message: &Message) -> Vec<String> {
    let sections: Vec<(String, String)> = serde_json::from_str(&message.data).unwrap();
    sections.into_iter().map(|(id, _)| id).collect()
}

async fn is_idle(viewing: &mut Viewing) -> bool {
    let next = pin!(viewing.next());
    // Longer than the pause between two messages.
    let waited = tokio::time::timeout(UPDATE_INTERVAL * 3, next).await;
    waited.is_err()
}

fn live() -> (tempfile::TempDir, Live) {
    let directory = tempfile::tempdir().unwrap();
    let live = Live::new(directory.path());
    live.change(|view| *view = samples::view(Situation::Testing));
    (directory, live)
}

#[tokio::test(start_paused = true)]
async fn viewer_receives_all_sections_and_then_those_that_changed() {
    let (_directory, live) = live();
    let mut viewer = viewing(&live, None);
    assert_eq!(ids(&viewer.next().await.unwrap()).len(), 11);
    assert!(is_idle(&mut viewer).await);
    live.change(|view| view.holder = None);
    let changed = ids(&viewer.next().await.unwrap());
    assert!(changed.contains(&"work".to_owned()), "{changed:?}");
    assert!(!changed.contains(&"traffic".to_owned()), "{changed:?}");
    // A change that shows nothing new is no message.
    live.change(|view| view.position += 1);
    assert!(is_idle(&mut viewer).await);
}

#[tokio::test(start_paused = true)]
async fn viewer_who_connects_again_receives_what_changed_in_between() {
    let (_directory, live) = live();
    let shown = render::sections(
        &live.view(),
        Viewer {
            name: "",
            may_act: true,
        },
    );
    let of_page = event_id_of(&live.view(), &shown);
    assert!(is_idle(&mut viewing(&live, Some(&of_page))).await);
    live.change(|view| view.holder = None);
    // To another process too: nothing but the identifier tells what the viewer has.
    let (_other_directory, other) = self::live();
    other.change(|view| view.holder = None);
    for live in [&live, &other] {
        let message = viewing(live, Some(&of_page)).next().await.unwrap();
        let changed = ids(&message);
        assert!(changed.contains(&"work".to_owned()), "{changed:?}");
        assert!(changed.len() < 5, "{changed:?}");
        assert!(is_idle(&mut viewing(live, Some(&message.id))).await);
    }
    let unknown = viewing(&live, Some("12@a/1.x")).next().await.unwrap();
    assert_eq!(ids(&unknown).len(), 11);
}

#[tokio::test(start_paused = true)]
async fn changes_are_sent_at_most_ten_times_a_second() {
    let (_directory, live) = live();
    let mut viewer = viewing(&live, None);
    let began = Instant::now();
    let mut messages = 0;
    for second in 0..2_000 {
        live.change(|view| view.round.in_flight = Some(second));
        if let Poll::Ready(Some(_)) = poll!(pin!(viewer.next())) {
            messages += 1;
        }
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(began.elapsed(), Duration::from_secs(2));
    assert_eq!(messages, 20);
    let last = viewer.next().await.unwrap();
    assert!(last.data.contains("1999 requests"), "{}", last.data);
}

#[tokio::test]
async fn sections_are_rendered_once_for_all_viewers_of_a_role() {
    let (_directory, live) = live();
    let published = Arc::clone(&live.views.borrow());
    let one: *const Rendered = published.rendered(true);
    let other: *const Rendered = Arc::clone(&live.views.borrow()).rendered(true);
    assert_eq!(one, other);
    assert_ne!(
        published.rendered(false).digests,
        published.rendered(true).digests
    );
}

#[tokio::test]
async fn stream_ends_with_the_page() {
    let (_directory, live) = live();
    let mut viewer = viewing(&live, None);
    viewer.next().await.unwrap();
    drop(live);
    assert!(viewer.next().await.is_none());
}

/// Shows what is new in the live file, as [`Live::follow`] does.
async fn show_news(live: &Live, follower: &mut Follower) -> bool {
    let changed = follower.read_on().await;
    if changed {
        live.change(|view| {
            view.deployment.clone_from(&follower.record);
            view.position = follower.position();
        });
    }
    changed
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_events_reach_twenty_viewers() {
    const EVENTS: usize = 10_000;

    let directory = tempfile::tempdir().unwrap();
    let reports = Reports::of(directory.path());
    let recorder = Recorder::new(reports.clone());
    let live = Live::new(directory.path());
    let mut follower = Follower::new(reports.live().clone());
    let viewers: Vec<_> = (0..20)
        .map(|place| {
            let mut viewer = viewing(&live, None);
            viewer.may_act = place % 2 == 0;
            tokio::spawn(async move {
                let mut page = BTreeMap::new();
                let mut messages = 0;
                while let Some(message) = viewer.next().await {
                    let sections: Vec<(String, String)> =
                        serde_json::from_str(&message.data).unwrap();
                    page.extend(sections);
                    messages += 1;
                }
                (page, messages)
            })
        })
        .collect();
    recorder.report(&Emitted::Planned {
        plan: &samples::plan(),
    });
    for number in 0..EVENTS {
        recorder.report(&Emitted::Note {
            text: format!("note {number}"),
        });
        if number % 500 == 0 {
            show_news(&live, &mut follower).await;
            tokio::time::sleep(UPDATE_INTERVAL / 2).await;
        }
    }
    show_news(&live, &mut follower).await;
    assert!(!show_news(&live, &mut follower).await);
    // A copy of the record stays cheap.
    let record = follower.record.clone().unwrap();
    assert_eq!(record.notes.len(), SHOWN_NOTES);
    assert_eq!(record.progress.forgotten_notes, EVENTS - SHOWN_NOTES);
    let length = fs::metadata(reports.live().path(&record.plan.id))
        .unwrap()
        .len();
    assert_eq!(live.view().position, length);
    // The viewers read the last state.
    tokio::time::sleep(UPDATE_INTERVAL * 3).await;
    drop(live);
    for viewer in viewers {
        let (page, messages) = viewer.await.unwrap();
        let notes = &page["notes"];
        assert!(notes.contains("The last 50 of 10000."), "{notes}");
        assert!(notes.contains("<li>note 9999</li>"), "{notes}");
        assert!((2..=22).contains(&messages), "{messages}");
    }
}

#[tokio::test]
async fn follower_shows_the_deployment_that_began_last() {
    let directory = tempfile::tempdir().unwrap();
    let reports = Reports::of(directory.path());
    let mut follower = Follower::new(reports.live().clone());
    assert!(!follower.read_on().await);
    for version in ["v1", "v2"] {
        let mut plan = samples::plan();
        plan.id = format!("20260304T093000.000Z-{version}");
        plan.release.version = version.to_owned();
        let recorder = Recorder::new(reports.clone());
        recorder.report(&Emitted::Planned { plan: &plan });
        assert!(follower.read_on().await);
        let record = follower.record.clone().unwrap();
        assert_eq!(record.plan.release.version, version);
    }
}

#[test]
fn event_id_has_no_line_break() {
    let mut view = samples::view(Situation::Testing);
    let mut record = samples::record(Situation::Testing).unwrap();
    record.plan.id = "a\nb\r\u{0}c/d".to_owned();
    view.deployment = Some(Arc::new(record));
    let id = event_id(&view, &[1, 0xabc]);
    assert_eq!(id, "4242@abc/d/1.abc");
    assert_eq!(digests_in(&id), [1, 0xabc]);
}
