//! The page as it changes: follows the live file, and sends viewers the sections that changed.

use std::{
    collections::hash_map::DefaultHasher,
    convert::Infallible,
    hash::{Hash as _, Hasher as _},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use axum::response::sse::Event;
use futures_util::{Stream, stream::unfold};
use tokio::{
    sync::watch,
    task::yield_now,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    color::Color,
    monitor::page::{
        render,
        view::{PageView, RoundView, Viewer},
    },
    ports::Ports,
    report::{
        Reports,
        live::{LiveFiles, LiveReader},
        record::Record,
    },
    state::lock_holder::LockHolder,
};

/// How often the live file is looked at, and the least time between two messages to a viewer.
const UPDATE_INTERVAL: Duration = Duration::from_millis(100);
/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);
/// How many lines are folded before other tasks get their turn.
const LINES_AT_ONCE: usize = 1_000;
/// How many notes the page shows.
pub(crate) const SHOWN_NOTES: usize = 50;

/// What viewers see now.
pub(crate) struct Live {
    views: watch::Sender<Arc<Published>>,
    reports: Reports,
}

/// A view, and its sections once a viewer of a role needed them.
#[derive(Default)]
struct Published {
    view: Arc<PageView>,
    /// For viewers who may not act, and for those who may.
    rendered: [OnceLock<Rendered>; 2],
}

/// The sections of the page for all viewers of a role.
struct Rendered {
    sections: Vec<(&'static str, String)>,
    digests: Vec<u64>,
    event_id: String,
}

impl Published {
    fn rendered(&self, may_act: bool) -> &Rendered {
        self.rendered[usize::from(may_act)].get_or_init(|| {
            // No section names the viewer.
            let viewer = Viewer { name: "", may_act };
            let sections = render::sections(&self.view, viewer);
            let digests = digests(&sections);
            Rendered {
                event_id: event_id(&self.view, &digests),
                digests,
                sections,
            }
        })
    }
}

fn digests(sections: &[(&'static str, String)]) -> Vec<u64> {
    let digest = |(_, html): &(_, String)| {
        let mut hasher = DefaultHasher::new();
        html.hash(&mut hasher);
        hasher.finish()
    };
    sections.iter().map(digest).collect()
}

/// Names what a viewer has: the place in the live file, and a digest of each section, so that a viewer who connects again, also
/// to another process, is sent exactly what is new.
fn event_id(view: &PageView, digests: &[u64]) -> String {
    let id = view.deployment.as_ref().map_or("", |it| &it.plan.id);
    // A line break would end the field.
    let id: String = id.chars().filter(char::is_ascii_graphic).collect();
    let digests: Vec<String> = digests.iter().map(|digest| format!("{digest:x}")).collect();
    format!("{}@{id}/{}", view.position, digests.join("."))
}

/// The identifier of what these sections show, for [`stream`].
pub(crate) fn event_id_of(view: &PageView, sections: &[(&'static str, String)]) -> String {
    event_id(view, &digests(sections))
}

/// The digests in an event's identifier.
fn digests_in(event_id: &str) -> Vec<u64> {
    let digests = event_id.rsplit_once('/').map_or("", |(_, digests)| digests);
    let digests = digests.split('.').map(|it| u64::from_str_radix(it, 16));
    digests.collect::<Result<_, _>>().unwrap_or_default()
}

impl Live {
    /// A page without content, for the state directory `state`.
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            views: watch::Sender::default(),
            reports: Reports::of(state),
        }
    }

    /// What viewers see now.
    pub(crate) fn view(&self) -> Arc<PageView> {
        Arc::clone(&self.views.borrow().view)
    }

    /// Shows what the monitor found in a round.
    pub(crate) fn show_round(
        &self,
        round: RoundView,
        holder: Option<LockHolder>,
        active: Option<Color>,
    ) {
        self.change(|view| {
            view.round = round;
            view.holder = holder;
            view.active = active;
        });
    }

    fn change(&self, change: impl FnOnce(&mut PageView)) {
        self.views.send_modify(|published| {
            let mut view = (*published.view).clone();
            change(&mut view);
            *published = Arc::new(Published {
                view: Arc::new(view),
                ..Published::default()
            });
        });
    }

    /// Shows each deployment while it runs. Never returns.
    pub(crate) async fn follow(&self, ports: &Ports) {
        let mut follower = Follower::new(self.reports.live().clone());
        let last = self.reports.read(None).ok().map(Arc::new);
        self.change(|view| view.deployment = last);
        let mut ticks = interval(UPDATE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if follower.read_on().await {
                // The monitor's next round would show them too late.
                let holder = ports.lock.holder().await;
                let active = ports.flags.active().await.ok();
                self.change(|view| {
                    view.deployment.clone_from(&follower.record);
                    view.position = follower.position();
                    view.holder = holder;
                    view.active = active;
                });
            }
        }
    }
}

/// Follows the live file of the deployment that began last.
struct Follower {
    files: LiveFiles,
    /// When the directory had changed when it was last listed.
    listed: Option<SystemTime>,
    /// The deployment, and its file.
    followed: Option<(String, LiveReader)>,
    record: Option<Arc<Record>>,
}

impl Follower {
    fn new(files: LiveFiles) -> Self {
        Self {
            files,
            listed: None,
            followed: None,
            record: None,
        }
    }

    fn position(&self) -> u64 {
        self.followed
            .as_ref()
            .map_or(0, |(_, reader)| reader.position())
    }

    /// Folds the lines that are new. Returns whether the record changed.
    async fn read_on(&mut self) -> bool {
        self.find_newest();
        let mut changed = false;
        while let Some((_, reader)) = &mut self.followed {
            let mut record = self.record.take().map(Arc::unwrap_or_clone);
            let read = reader.read(LINES_AT_ONCE, |line| Record::fold(&mut record, &line));
            // The page shows no more of them, and a copy of the record must stay cheap.
            if let Some(record) = &mut record {
                record.forget_notes(SHOWN_NOTES);
            }
            self.record = record.map(Arc::new);
            // A file that was pruned is not read on.
            let lines = read.unwrap_or_default();
            changed |= lines > 0;
            if lines < LINES_AT_ONCE {
                break;
            }
            yield_now().await;
        }
        changed && self.record.is_some()
    }

    /// Begins with another file if a deployment began.
    fn find_newest(&mut self) {
        /// A file may be created within the same tick of the clock as the last change.
        const SETTLED: Duration = Duration::from_secs(1);

        let changed = std::fs::metadata(self.files.directory()).and_then(|it| it.modified());
        let Ok(changed) = changed else {
            return;
        };
        let is_settled = changed.elapsed().is_ok_and(|since| since > SETTLED);
        if self.listed.replace(changed) == Some(changed) && is_settled {
            return;
        }
        let newest = self.files.newest();
        let followed = self.followed.as_ref().map(|(id, _)| id);
        if let Some(newest) = newest.filter(|newest| Some(newest) != followed) {
            self.followed = Some((newest.clone(), self.files.reader(&newest)));
            self.record = None;
        }
    }
}

/// The messages for one viewer: `id` names what the viewer then has, and `data` is a JSON array of the sections that changed, each
/// `[element id, HTML]`.
///
/// The first message has what differs from `last_event_id`; everything without it. A viewer who is slow is sent the
/// newest state, and never a queue of older ones. Ends with `live`.
pub(crate) fn stream(
    live: &Live,
    may_act: bool,
    last_event_id: Option<&str>,
) -> impl Stream<Item = Result<Event, Infallible>> + Send + use<> {
    let viewing = Viewing {
        views: live.views.subscribe(),
        may_act,
        known: last_event_id.map(digests_in).unwrap_or_default(),
        not_before: Instant::now(),
    };
    unfold(viewing, async |mut viewing| {
        let message = viewing.next().await?;
        let event = Event::default()
            .id(message.id)
            .retry(RETRY)
            .data(message.data);
        Some((Ok(event), viewing))
    })
}

/// A viewer who is connected.
struct Viewing {
    views: watch::Receiver<Arc<Published>>,
    may_act: bool,
    /// The digests of the sections that the viewer has.
    known: Vec<u64>,
    not_before: Instant,
}

/// A message to a viewer.
#[derive(Debug)]
struct Message {
    id: String,
    data: String,
}

impl Viewing {
    /// Waits for a change, and returns what is new; `None` if the page is no longer served.
    async fn next(&mut self) -> Option<Message> {
        loop {
            sleep_until(self.not_before).await;
            let published = Arc::clone(&self.views.borrow_and_update());
            let rendered = published.rendered(self.may_act);
            let changed: Vec<(&str, &str)> = rendered
                .sections
                .iter()
                .enumerate()
                .filter(|(place, _)| self.known.get(*place) != Some(&rendered.digests[*place]))
                .map(|(_, (id, html))| (*id, html.as_str()))
                .collect();
            if changed.is_empty() {
                self.views.changed().await.ok()?;
                continue;
            }
            let data = serde_json::to_string(&changed).unwrap_or_default();
            self.known.clone_from(&rendered.digests);
            self.not_before = Instant::now() + UPDATE_INTERVAL;
            return Some(Message {
                id: rendered.event_id.clone(),
                data,
            });
        }
    }
}

#[cfg(test)]
mod tests;
