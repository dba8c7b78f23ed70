//! The ends of deployments, and the moves of traffic by a person, as notifications.
//!
//! They are read from the history, which a later command completes if a deployer is killed. So an end is announced even
//! if the deployer that recorded it is killed before it announces it.

use std::{fs, io};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    adapters::notify::{
        Notifier,
        notification::{Kind, Notification},
    },
    report::warn,
    state::{action::Action, atomic_file, history::HistoryEntry},
};

/// Which entry of the history was announced last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announced {
    /// `None` if the history had no entry.
    last: Option<(Timestamp, Action)>,
}

impl Announced {
    fn up_to(entries: &[HistoryEntry]) -> Self {
        let last = entries.last();
        Self {
            last: last.map(|entry| (entry.at, entry.action)),
        }
    }

    /// The number of entries that were announced.
    fn count(&self, entries: &[HistoryEntry]) -> usize {
        let Some((at, action)) = self.last else {
            return 0;
        };
        let is_last = |entry: &HistoryEntry| (entry.at, entry.action) == (at, action);
        entries.iter().rposition(is_last).map_or_else(
            // A person replaced or shortened the history.
            || entries.iter().filter(|entry| entry.at <= at).count(),
            |index| index + 1,
        )
    }
}

impl Notifier {
    /// Adds a notification for each entry of the history that was not announced yet. The first call of an installation
    /// only remembers the last entry: older ones are no news.
    pub fn announce(&self, history: &[HistoryEntry]) {
        let now = Announced::up_to(history);
        if self.announced().as_ref() == Some(&now) {
            return;
        }
        // Another process may announce the same entries.
        let _lock = self.spool.lock_ends();
        let file = self.spool.ends_file();
        let written = fs::read_to_string(&file).ok();
        let written: Option<Announced> = written.and_then(|text| serde_json::from_str(&text).ok());
        let known = [written, self.announced().clone()];
        let announced = known.iter().flatten();
        let first_new = announced.map(|announced| announced.count(history)).max();
        for entry in &history[first_new.unwrap_or(history.len())..] {
            if let Some(notification) = self.end(entry) {
                self.queue(&notification);
            }
        }
        let written = serde_json::to_string(&now)
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace(&file, &text));
        if let Err(error) = written
            && first_new.is_some()
        {
            let file = file.display();
            warn(&format!(
                "cannot write {file}, so a later command may announce the end of a deployment again: {error}"
            ));
        }
        *self.announced() = Some(now);
    }

    /// The notification of an entry of the history; `None` if the monitor sends an alert about it, or nothing ended.
    fn end(&self, entry: &HistoryEntry) -> Option<Notification> {
        let kind = match entry.action {
            Action::Promoted => Kind::Promoted,
            Action::Refused => Kind::Refused,
            Action::RolledBack => Kind::RolledBack,
            Action::Halted => Kind::Halted,
            Action::Switched => Kind::Switched,
            Action::NotRestored => Kind::NotRestored,
            Action::FailedOver
            | Action::Restored
            | Action::Stopped
            | Action::StandInOn
            | Action::StandInOff => return None,
        };
        let report = entry.id.as_ref().map(|id| self.reports.page(id));
        let mut text = describe(entry);
        if let Some(report) = &report {
            text = format!("{text}; the report is {}", report.display());
        }
        let color = Some(entry.color);
        Some(Notification {
            id: Notification::id_of(entry.at, kind, color),
            kind,
            at: entry.at,
            color,
            text,
            deployment: entry.id.clone(),
            version: entry.version.clone(),
            reason: entry.reason.clone(),
            report,
            link: None,
            trace: entry.trace.clone(),
            history: self.state.newest_history_hash(),
            router: self.router.clone(),
            by: entry.by.clone(),
        })
    }
}

/// Says what happened, and why.
fn describe(entry: &HistoryEntry) -> String {
    let version = entry.version.as_deref().unwrap_or("an unknown version");
    let (color, action) = (entry.color, entry.action.as_str());
    let what = match (entry.action, &entry.id) {
        (Action::Halted, _) => {
            format!("the deployment of {version} on {color} halted, and needs a person")
        }
        (Action::NotRestored, _) => format!("{color} cannot stand in"),
        (_, Some(_)) => format!("{version} on {color} was {action}"),
        (_, None) => format!("traffic was {action} to {color}, which serves {version}"),
    };
    match &entry.reason {
        Some(reason) => format!("{what}: {reason}"),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{adapters::notify::tests::notifier, color::Color};

    fn entry(second: i64, action: Action, id: Option<&str>) -> HistoryEntry {
        HistoryEntry {
            at: Timestamp::from_second(second).unwrap(),
            action,
            id: id.map(str::to_owned),
            color: Color::Green,
            version: Some("v2".to_owned()),
            digest: None,
            seconds: None,
            trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
            outside_window: None,
            by: "someone@example".to_owned(),
            reason: Some("a reason".to_owned()),
        }
    }

    fn kinds(state: &Path) -> Vec<Kind> {
        let waiting = notifier(state, &["webhook"]).undelivered();
        waiting
            .iter()
            .map(|notification| notification.kind)
            .collect()
    }

    #[test]
    fn end_is_announced_once_by_any_process() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let open = || notifier(state, &["webhook"]);
        let mut history = vec![entry(1, Action::Promoted, Some("1"))];
        let (monitor, command) = (open(), open());
        monitor.announce(&history);
        command.announce(&history);
        assert_eq!(kinds(state), [], "the first call only remembers");

        history.push(entry(2, Action::Refused, Some("2")));
        command.announce(&history);
        let announced = command.undelivered();
        command.spool.remove("webhook", &announced[0].id);
        monitor.announce(&history);
        command.announce(&history);
        open().announce(&history);
        assert_eq!(kinds(state), []);
        assert_eq!(announced.len(), 1);
    }

    #[test]
    fn end_is_announced_by_next_command_after_a_kill() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let open = || notifier(state, &["webhook"]);
        open().announce(&[]);
        // A deployer recorded these ends, and was killed before it announced them.
        let history = [
            entry(1, Action::RolledBack, Some("1")),
            entry(2, Action::Halted, Some("2")),
        ];
        open().announce(&history);
        assert_eq!(kinds(state), [Kind::RolledBack, Kind::Halted]);
    }

    #[test]
    fn replaced_history_announces_only_later_ends() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let open = || notifier(state, &["webhook"]);
        open().announce(&[entry(5, Action::Promoted, Some("5"))]);
        let history = [
            entry(4, Action::Refused, Some("4")),
            entry(6, Action::Halted, Some("6")),
        ];
        open().announce(&history);
        assert_eq!(kinds(state), [Kind::Halted]);
    }

    #[test]
    fn earlier_time_after_a_clock_change_is_announced() {
        let state = tempfile::tempdir().unwrap();
        let state = state.path();
        let mut history = vec![entry(100, Action::Promoted, Some("1"))];
        notifier(state, &["webhook"]).announce(&history);
        history.push(entry(50, Action::Halted, Some("2")));
        notifier(state, &["webhook"]).announce(&history);
        assert_eq!(kinds(state), [Kind::Halted]);
    }

    #[test]
    fn end_says_what_why_where_and_who() {
        let state = tempfile::tempdir().unwrap();
        let notifier = notifier(state.path(), &["webhook"]);
        let report = state.path().join("reports/20260102T030405.678Z-v2.html");
        let end = |action, id| notifier.end(&entry(1, action, id));
        let id = "20260102T030405.678Z-v2";
        for (action, what) in [
            (Action::Promoted, "v2 on green was promoted"),
            (Action::Refused, "v2 on green was refused"),
            (Action::RolledBack, "v2 on green was rolled back"),
            (
                Action::Halted,
                "the deployment of v2 on green halted, and needs a person",
            ),
        ] {
            let body = end(action, Some(id)).unwrap().for_webhook();
            let report = report.display();
            assert_eq!(
                body["text"],
                format!("{what}: a reason; the report is {report}")
            );
            assert_eq!(body["kind"], serde_json::json!(action));
            assert_eq!(body["deployment"], id);
            assert_eq!(body["reason"], "a reason");
            assert_eq!(body["report"], report.to_string());
            assert_eq!(body["by"], "someone@example");
            assert_eq!(body["version"], "v2");
            assert_eq!(body["trace"], "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(body["schema"], 1);
        }
        let by_hand = end(Action::Switched, None).unwrap();
        assert_eq!(
            by_hand.for_slack()["text"],
            format!(
                "*switched* traffic was switched to green, which serves v2: a reason ({}, someone@example)",
                notifier.router
            )
        );
        assert_eq!(by_hand.report, None);
        assert_eq!(end(Action::FailedOver, None), None, "the monitor alerts");
    }

    #[test]
    fn notification_has_the_hash_of_the_newest_history_line() {
        let state = tempfile::tempdir().unwrap();
        let notifier = notifier(state.path(), &["webhook"]);
        let hash = || {
            let end = notifier
                .end(&entry(1, Action::Promoted, Some("1")))
                .unwrap();
            end.for_webhook()["history"].clone()
        };
        assert_eq!(hash(), serde_json::Value::Null);
        fs::write(state.path().join("history.jsonl"), "{}\nabc\n").unwrap();
        assert_eq!(hash(), crate::state::history_chain::sha256(b"abc"));
        notifier.alert(Kind::Down, Timestamp::now(), None, "it is down".to_owned());
        assert_eq!(notifier.undelivered()[0].for_webhook()["history"], hash());
    }
}
