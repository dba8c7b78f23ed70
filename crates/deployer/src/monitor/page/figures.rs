//! The DORA figures that the history can tell. docs/page.md defines them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::state::{action::Action, history::HistoryEntry};

/// The figures cover so many days.
pub(crate) const DAYS: i64 = 30;
const DAY: f64 = 86_400.0;

/// The figures of the last [`DAYS`] days, or of the time since the first line of the history.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Figures {
    /// The time that they cover, in days; at least one.
    pub(crate) days: f64,
    /// Deployments whose release received traffic.
    pub(crate) deployments: usize,
    /// Those of them that lost it again by a rollback or a failover, or were halted.
    pub(crate) failed: usize,
    /// Deployments that were refused before traffic moved.
    pub(crate) refused: usize,
    /// The median of how long failed releases had the traffic, in seconds; `None` if it is not known of any.
    pub(crate) time_to_restore: Option<f64>,
}

impl Figures {
    /// Computes the figures. `switched` are the moments at which deployments moved traffic, by their identifiers, as far as
    /// reports tell them.
    pub(crate) fn of(
        history: &[HistoryEntry],
        switched: &BTreeMap<String, Timestamp>,
        now: Timestamp,
    ) -> Self {
        let seconds = |at: Timestamp| now.duration_since(at).as_secs_f64();
        let from_first = history.first().map_or(0.0, |first| seconds(first.at) / DAY);
        let mut figures = Self {
            days: from_first.clamp(1.0, DAYS as f64),
            ..Self::default()
        };
        let mut restored = Vec::new();
        for (place, entry) in history.iter().enumerate() {
            if entry.id.is_none() || seconds(entry.at) > DAYS as f64 * DAY {
                continue;
            }
            match entry.action {
                Action::Refused => figures.refused += 1,
                Action::Promoted => {
                    figures.deployments += 1;
                    if let Some(reverted) = reversal(entry, &history[place + 1..]) {
                        figures.failed += 1;
                        let from = entry.id.as_ref().and_then(|id| switched.get(id));
                        restored.push(
                            reverted
                                .duration_since(*from.unwrap_or(&entry.at))
                                .as_secs_f64(),
                        );
                    }
                }
                // Counted with its promotion.
                Action::RolledBack if was_promoted(entry, &history[..place]) => {}
                Action::RolledBack => {
                    figures.deployments += 1;
                    figures.failed += 1;
                    let from = entry.id.as_ref().and_then(|id| switched.get(id));
                    restored.extend(from.map(|from| entry.at.duration_since(*from).as_secs_f64()));
                }
                Action::Halted => {
                    figures.deployments += 1;
                    figures.failed += 1;
                }
                _ => {}
            }
        }
        restored.sort_by(f64::total_cmp);
        figures.time_to_restore = restored.get(restored.len().saturating_sub(1) / 2).copied();
        figures
    }

    /// The share of deployments that failed, 0–1; `None` without one.
    pub(crate) fn failure_rate(&self) -> Option<f64> {
        (self.deployments > 0).then(|| self.failed as f64 / self.deployments as f64)
    }
}

/// When a promoted release lost its traffic by a rollback or a failover; `None` if it did not.
fn reversal(promoted: &HistoryEntry, later: &[HistoryEntry]) -> Option<Timestamp> {
    for entry in later {
        match entry.action {
            Action::RolledBack if entry.id == promoted.id => return Some(entry.at),
            Action::RolledBack | Action::FailedOver
                if entry.id.is_none() && entry.color != promoted.color =>
            {
                return Some(entry.at);
            }
            // From here on, another release or a person's choice has the traffic.
            Action::Promoted | Action::Switched => return None,
            _ => {}
        }
    }
    None
}

fn was_promoted(rolled_back: &HistoryEntry, earlier: &[HistoryEntry]) -> bool {
    let mut same = earlier.iter().filter(|entry| entry.id == rolled_back.id);
    same.any(|entry| entry.action == Action::Promoted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::color::Color;

    fn entry(at: i64, action: Action, id: Option<&str>, color: Color) -> HistoryEntry {
        HistoryEntry {
            at: Timestamp::from_second(at).unwrap(),
            action,
            id: id.map(str::to_owned),
            color,
            version: None,
            digest: None,
            seconds: None,
            trace: None,
            outside_window: None,
            by: "a@b".to_owned(),
            reason: None,
        }
    }

    fn figures(history: &[HistoryEntry], switched: &[(&str, i64)]) -> Figures {
        let at = |second: &i64| Timestamp::from_second(*second).unwrap();
        let switched = switched
            .iter()
            .map(|(id, second)| ((*id).to_owned(), at(second)));
        Figures::of(history, &switched.collect(), at(&(DAYS * 86_400)))
    }

    #[test]
    fn release_that_lost_traffic_is_a_failed_deployment() {
        let (blue, green) = (Color::Blue, Color::Green);
        let history = [
            entry(100, Action::Promoted, Some("a"), green),
            entry(200, Action::Refused, Some("b"), blue),
            entry(300, Action::RolledBack, Some("c"), blue),
            entry(400, Action::Promoted, Some("d"), blue),
            // By a person, as `record_phase` writes it.
            entry(460, Action::RolledBack, Some("d"), blue),
            entry(500, Action::Promoted, Some("e"), blue),
            entry(560, Action::FailedOver, None, green),
        ];
        let figures = figures(&history, &[("c", 290), ("d", 380)]);
        assert_eq!(
            (figures.deployments, figures.failed, figures.refused),
            (4, 3, 1)
        );
        assert!((figures.failure_rate().unwrap() - 0.75).abs() < 1e-9);
        // 10 s, 80 s from the switch, and 60 s from the promotion, because its report is gone.
        assert_eq!(figures.time_to_restore, Some(60.0));
    }

    #[test]
    fn promoted_release_that_a_person_replaced_did_not_fail() {
        let history = [
            entry(100, Action::Promoted, Some("a"), Color::Green),
            entry(200, Action::Switched, None, Color::Blue),
            entry(300, Action::RolledBack, None, Color::Green),
        ];
        let figures = figures(&history, &[]);
        assert_eq!((figures.deployments, figures.failed), (1, 0));
        assert_eq!(figures.time_to_restore, None);
    }

    #[test]
    fn figures_cover_thirty_days_at_most_and_one_at_least() {
        let history = [entry(-90 * 86_400, Action::Halted, Some("a"), Color::Green)];
        let old = figures(&history, &[]);
        assert_eq!(
            (old.days, old.deployments, old.failure_rate()),
            (30.0, 0, None)
        );
        assert!((figures(&[], &[]).days - 1.0).abs() < 1e-9);
    }
}
