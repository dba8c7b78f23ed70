//! What the monitor finds in a round, as the page shows it.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;

use crate::{
    color::Color,
    config::Settings,
    evidence::request::Request,
    monitor::{
        color::{MonitoredColor, index},
        page::{
            figures::Figures,
            stream::Live,
            traffic::{Limits, SHOWN, TrafficMoved, TrafficRing},
            view::{ColorCard, HistoryView, Rollback, RoundView},
        },
        page_actions::check_proven,
    },
    ports::{Ports, RouterStatus},
    report::{Reports, record::Record},
    state::{action::Action, history::HistoryEntry, journal_entries::JournalEntries},
};

/// Two reports of the same move of traffic are at most so many seconds apart.
const SAME_MOVE: f64 = 10.0;

/// Collects what the page shows of the monitor.
pub(crate) struct PageFeed<'a> {
    live: &'a Live,
    reports: Reports,
    ring: TrafficRing,
    /// Moves of traffic that the monitor saw between two rounds.
    seen_moves: Vec<TrafficMoved>,
    active: Option<Color>,
    /// When the deployments of the history moved traffic. `None` if their report does not tell.
    switched: BTreeMap<String, Option<Timestamp>>,
    history: Arc<HistoryView>,
}

/// The result of a round's checks.
pub(crate) struct RoundResults<'a> {
    pub(crate) now: Timestamp,
    pub(crate) active: Option<Color>,
    /// Why the router does not answer, if it does not.
    pub(crate) router_trouble: Option<String>,
    /// Each of several routers; empty if there is one.
    pub(crate) routers: Vec<RouterStatus>,
    pub(crate) colors: &'a [MonitoredColor; 2],
}

impl<'a> PageFeed<'a> {
    pub(crate) fn new(live: &'a Live, settings: &Settings) -> Self {
        Self {
            live,
            reports: Reports::of(&settings.state),
            ring: TrafficRing::default(),
            seen_moves: Vec::new(),
            active: None,
            switched: BTreeMap::new(),
            history: Arc::default(),
        }
    }

    /// Adds requests that were read from the router's log.
    pub(crate) fn add(&mut self, requests: &[Request], now: Timestamp) {
        self.ring.add(requests, now);
    }

    /// Shows a round.
    pub(crate) async fn show(
        &mut self,
        settings: &Settings,
        ports: &Ports,
        results: RoundResults<'_>,
    ) {
        let RoundResults {
            now,
            active,
            router_trouble,
            routers,
            colors,
        } = results;
        let holder = ports.lock.holder().await;
        let entries = ports.journal.read().await.unwrap_or_default();
        self.read_history(ports, now).await;
        self.note_move(active, now);
        let mut cards: [ColorCard; 2] = Default::default();
        for color in Color::BOTH {
            let monitored = &colors[index(color)];
            let health = monitored.health();
            cards[index(color)] = ColorCard {
                version: monitored.last_health().model_version.clone(),
                digest: monitored.last_health().model_digest.clone(),
                trouble: monitored.trouble.clone(),
                fit: ports.flags.is_fit(color).await.ok(),
                is_proven: health.is_some_and(|health| {
                    check_proven(&self.history.entries, color, health).is_ok()
                }),
            };
        }
        let moves = self.moves(now);
        let limits = Limits {
            max_error_rate: settings.bake.max_error_rate,
        };
        let mut traffic = self.ring.view(now, moves, limits);
        traffic.is_known = ports.request_log.is_some();
        let round = RoundView {
            checked: Some(now),
            model: settings.release.model.clone(),
            router: settings.router.url.clone(),
            router_trouble,
            in_flight: if routers.is_empty() {
                ports.router.in_flight().await.ok()
            } else {
                None
            },
            routers,
            interrupted: if holder.is_none() {
                interrupted(&entries)
            } else {
                None
            },
            rollback: rollback(active, &cards, &entries, &self.history.entries),
            colors: cards,
            traffic: Arc::new(traffic),
            history: Arc::clone(&self.history),
        };
        self.live.show_round(round, holder, active);
    }

    /// Reads the history, and what its reports tell, if it changed.
    async fn read_history(&mut self, ports: &Ports, now: Timestamp) {
        let Ok(read) = ports.journal.read_history().await else {
            return;
        };
        let entries = read.entries;
        for entry in &entries {
            if let (Some(id), true) = (&entry.id, is_end(entry)) {
                let reports = &self.reports;
                let switched = || {
                    reports
                        .read(Some(id))
                        .ok()
                        .and_then(|it: Record| it.switched)
                };
                self.switched.entry(id.clone()).or_insert_with(switched);
            }
        }
        let known = self.switched.iter();
        let known = known.filter_map(|(id, at)| Some((id.clone(), (*at)?)));
        let figures = Figures::of(&entries, &known.collect(), now);
        self.history = Arc::new(HistoryView { entries, figures });
    }

    fn note_move(&mut self, active: Option<Color>, now: Timestamp) {
        let Some(to) = active else {
            return;
        };
        if self.active.replace(to).is_some_and(|before| before != to) {
            self.seen_moves.push(TrafficMoved { at: now, to });
        }
        let is_shown = |moved: &TrafficMoved| age(moved.at, now) <= SHOWN as f64;
        self.seen_moves.retain(is_shown);
    }

    /// The moves of traffic in the time that is shown: by deployments and persons, and others that the monitor saw.
    fn moves(&self, now: Timestamp) -> Vec<TrafficMoved> {
        let running = self.live.view();
        let running = running.deployment.as_deref();
        let switched = running.and_then(|it| Some((it.switched?, it.plan.idle)));
        let mut moves: Vec<TrafficMoved> = switched
            .map(|(at, to)| TrafficMoved { at, to })
            .into_iter()
            .chain(
                self.history
                    .entries
                    .iter()
                    .flat_map(|entry| self.moves_of(entry)),
            )
            .chain(self.seen_moves.iter().copied())
            .filter(|moved| age(moved.at, now) <= SHOWN as f64)
            .collect();
        moves.sort_by_key(|moved| moved.at);
        moves.dedup_by(|later, first| later.to == first.to && age(first.at, later.at) <= SAME_MOVE);
        moves
    }

    /// The moves that a line of the history tells.
    fn moves_of(&self, entry: &HistoryEntry) -> Vec<TrafficMoved> {
        let at = entry.at;
        let id = entry.id.as_ref();
        let switched = id.and_then(|id| *self.switched.get(id)?);
        let to_candidate = switched.map(|at| TrafficMoved {
            at,
            to: entry.color,
        });
        match entry.action {
            Action::Promoted => to_candidate.into_iter().collect(),
            Action::RolledBack if id.is_some() => {
                let back = TrafficMoved {
                    at,
                    to: entry.color.other(),
                };
                to_candidate.into_iter().chain([back]).collect()
            }
            Action::RolledBack | Action::Switched | Action::FailedOver => {
                vec![TrafficMoved {
                    at,
                    to: entry.color,
                }]
            }
            _ => Vec::new(),
        }
    }
}

fn age(at: Timestamp, now: Timestamp) -> f64 {
    now.duration_since(at).as_secs_f64()
}

/// Whether a deployment ended so that its release had received traffic.
fn is_end(entry: &HistoryEntry) -> bool {
    matches!(
        entry.action,
        Action::Promoted | Action::RolledBack | Action::Halted
    )
}

/// What a killed command left unfinished, as a sentence.
fn interrupted(entries: &JournalEntries) -> Option<String> {
    if let Some(pending) = &entries.traffic_move {
        return Some(format!(
            "{pending} was interrupted: `deployer recover` completes it."
        ));
    }
    let entry = entries.unfinished_deployment()?;
    let id = &entry.plan.id;
    Some(format!(
        "Deployment {id} was interrupted: `deployer recover` completes it."
    ))
}

/// Where a rollback would move the traffic.
fn rollback(
    active: Option<Color>,
    cards: &[ColorCard; 2],
    entries: &JournalEntries,
    history: &[HistoryEntry],
) -> Rollback {
    let Some(active) = active else {
        return Rollback::Impossible("it is not known which color is active".to_owned());
    };
    let unfinished = entries.unfinished_deployment();
    if unfinished.is_some_and(|entry| entry.plan.active == active) {
        return Rollback::Impossible(
            "traffic had not moved when the deployment was interrupted".to_owned(),
        );
    }
    let to = active.other();
    let card = &cards[index(to)];
    let version = card.version.as_deref();
    let reason = if card.trouble.is_some() {
        format!("{to} is not healthy, so there is nothing to roll back to")
    } else if card.fit != Some(true) && unfinished.is_none() {
        format!("{to} may not stand in, so there is nothing to roll back to")
    } else if entries.nothing_to_roll_back(history, active, version) {
        format!("the last deployment was rolled back to {active} already")
    } else {
        return Rollback::To(
            to,
            version.unwrap_or("a release without a version").to_owned(),
        );
    };
    Rollback::Impossible(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(at: i64, action: Action, id: Option<&str>, color: Color) -> HistoryEntry {
        HistoryEntry {
            id: id.map(str::to_owned),
            ..HistoryEntry::of_color(
                action,
                color,
                None,
                Timestamp::from_second(at).unwrap(),
                "why".to_owned(),
            )
        }
    }

    #[test]
    fn moves_come_from_history_reports_and_rounds_once_each() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let live = Live::new(directory.path());
        let (blue, green) = (Color::Blue, Color::Green);
        let mut feed = PageFeed {
            live: &live,
            reports: Reports::of(directory.path()),
            ring: TrafficRing::default(),
            seen_moves: Vec::new(),
            active: None,
            switched: BTreeMap::from([("a".to_owned(), Some(at(1100)))]),
            history: Arc::new(HistoryView {
                entries: vec![
                    entry(900, Action::Switched, None, green),
                    entry(1160, Action::RolledBack, Some("a"), green),
                    entry(1200, Action::Refused, Some("b"), green),
                ],
                figures: Figures::default(),
            }),
        };
        for (second, active) in [(1098, blue), (1101, green), (1161, blue), (1300, green)] {
            feed.note_move(Some(active), at(second));
        }
        let moves = feed.moves(at(1850));
        let moves: Vec<_> = moves.iter().map(|it| (it.at.as_second(), it.to)).collect();
        assert_eq!(moves, [(1100, green), (1160, blue), (1300, green)]);
    }

    #[test]
    fn rollback_needs_a_healthy_fit_standby() {
        let fit = ColorCard {
            version: Some("v1".to_owned()),
            fit: Some(true),
            ..ColorCard::default()
        };
        let of = |card: ColorCard| {
            let cards = [ColorCard::default(), card];
            rollback(Some(Color::Blue), &cards, &JournalEntries::default(), &[])
        };
        assert_eq!(of(fit.clone()), Rollback::To(Color::Green, "v1".to_owned()));
        let down = ColorCard {
            trouble: Some("connection refused".to_owned()),
            ..fit.clone()
        };
        let unfit = ColorCard {
            fit: Some(false),
            ..fit
        };
        for card in [down, unfit] {
            let Rollback::Impossible(reason) = of(card) else {
                panic!("it is possible");
            };
            assert!(reason.contains("nothing to roll back to"), "{reason}");
        }
    }
}
