//! Undelivered alerts, kept in a file so that they survive a restart.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{adapters::alerts::alert::Alert, report::warn, state::atomic_file};

/// Undelivered alerts by receiver, in order.
pub(super) struct Outbox {
    path: Option<PathBuf>,
    waiting: Mutex<Vec<(String, Alert)>>,
}

impl Outbox {
    /// Reads what an earlier run left in the file. Without a file, nothing survives this run.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let text = path.as_ref().and_then(|path| fs::read_to_string(path).ok());
        let waiting = text.and_then(|text| serde_json::from_str(&text).ok());
        Self {
            path,
            waiting: Mutex::new(waiting.unwrap_or_default()),
        }
    }

    pub(super) fn waiting(&self) -> Vec<(String, Alert)> {
        self.lock().clone()
    }

    pub(super) fn add(&self, receivers: &[&str], alert: &Alert) {
        let mut waiting = self.lock();
        let more = receivers.iter();
        waiting.extend(more.map(|name| ((*name).to_owned(), alert.clone())));
        self.keep(&waiting);
    }

    pub(super) fn remove(&self, receiver: &str, alert: &Alert) {
        let mut waiting = self.lock();
        waiting.retain(|(name, waits)| name != receiver || waits != alert);
        self.keep(&waiting);
    }

    fn keep(&self, waiting: &[(String, Alert)]) {
        let Some(path) = &self.path else { return };
        let written = serde_json::to_string(waiting)
            .map_err(std::io::Error::from)
            .and_then(|text| atomic_file::replace(path, &text));
        if let Err(error) = written {
            warn(&format!(
                "cannot write {}, so a restart loses alerts: {error}",
                path.display()
            ));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(String, Alert)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::adapters::alerts::alert::Kind;

    #[test]
    fn undelivered_alerts_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let path = Some(directory.path().join("alerts.json"));
        let alert = Alert {
            kind: Kind::Down,
            at: Timestamp::UNIX_EPOCH,
            color: None,
            text: "the router is down".to_owned(),
        };
        let outbox = Outbox::open(path.clone());
        outbox.add(&["webhook", "slack"], &alert);
        outbox.remove("slack", &alert);
        drop(outbox);
        let outbox = Outbox::open(path.clone());
        assert_eq!(outbox.waiting(), [("webhook".to_owned(), alert.clone())]);
        outbox.remove("webhook", &alert);
        assert_eq!(Outbox::open(path).waiting(), []);
    }
}
