//! Notifies people: sends alerts, and the ends of deployments, to the same receivers.

mod ends;
mod notification;
mod question;
mod sender;
mod spool;

use std::{
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use jiff::Timestamp;
use reqwest::StatusCode;
use serde_json::Value;

use self::{
    ends::Announced,
    sender::{Failure, Sender, is_expired},
    spool::Spool,
};
pub use self::{
    notification::{Kind, Notification},
    question::Questions,
};
use crate::{
    adapters::{
        http::{self, cause},
        state_directory::StateDirectory,
    },
    color::Color,
    config::{AlertsSettings, Settings},
    ports::PortError,
    report::{Reports, warn},
    state::lock_holder::current_user,
};

/// A receiver of notifications.
struct Receiver {
    name: &'static str,
    url: String,
    /// Formats the request body.
    body: fn(&Notification) -> Value,
}

/// The queue of notifications, and its receivers.
pub struct Notifier {
    receivers: Vec<Receiver>,
    give_up_after: Duration,
    spool: Spool,
    router: String,
    reports: Reports,
    state: StateDirectory,
    /// What this process knows to be announced, also if it could not be written.
    announced: Mutex<Option<Announced>>,
}

impl Notifier {
    /// The queue of this installation, and the receivers of the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let AlertsSettings { webhook, slack, .. } = &settings.alerts;
        let receivers = [
            Receiver {
                name: "webhook",
                url: webhook.clone(),
                body: Notification::for_webhook,
            },
            Receiver {
                name: "slack",
                url: slack.clone(),
                body: Notification::for_slack,
            },
        ];
        Self {
            receivers: receivers
                .into_iter()
                .filter(|receiver| !receiver.url.is_empty())
                .collect(),
            give_up_after: settings.alerts.give_up_after,
            spool: Spool::in_directory(settings.state.join("notifications")),
            router: settings.router.url.clone(),
            reports: Reports::of(&settings.state),
            state: StateDirectory::new(&settings.state),
            announced: Mutex::default(),
        }
    }

    /// The names of the receivers.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.receivers
            .iter()
            .map(|receiver| receiver.name)
            .collect()
    }

    /// Whether there is a receiver in these settings, or in those of the monitor.
    #[must_use]
    pub fn has_receivers(&self) -> bool {
        !self.receivers.is_empty() || !self.spool.receivers().is_empty()
    }

    /// Queues an alert for every receiver.
    pub fn alert(&self, kind: Kind, at: Timestamp, color: Option<Color>, text: String) {
        self.queue(&self.notification(kind, at, color, text));
    }

    fn notification(
        &self,
        kind: Kind,
        at: Timestamp,
        color: Option<Color>,
        text: String,
    ) -> Notification {
        Notification {
            id: Notification::id_of(at, kind, color),
            kind,
            at,
            color,
            text,
            deployment: None,
            version: None,
            reason: None,
            report: None,
            link: None,
            trace: None,
            history: self.state.newest_history_hash(),
            router: self.router.clone(),
            by: current_user(),
        }
    }

    /// Adds a notification to the queues of all receivers: those of these settings, and those of the monitor, whose
    /// environment may name receivers that a command does not know.
    fn queue(&self, notification: &Notification) {
        let names = self.names();
        for name in &names {
            self.spool.add(name, notification);
        }
        for other in self.spool.receivers() {
            if names.contains(&other.as_str()) {
                continue;
            }
            if self.is_abandoned(&other) {
                self.spool.forget(&other);
            } else {
                self.spool.add(&other, notification);
            }
        }
    }

    /// Whether no process sends to a receiver, and none has for so long that a notification expired.
    fn is_abandoned(&self, receiver: &str) -> bool {
        let waiting = self.spool.waiting(receiver);
        let oldest = waiting.first();
        oldest.is_some_and(|oldest| is_expired(oldest, self.give_up_after))
            && self.spool.lock_sender(receiver).is_some()
    }

    /// Forgets receivers that these settings do not name, and what waits for them.
    pub fn forget_others(&self) {
        let names = self.names();
        for name in &names {
            self.spool.register(name);
        }
        for other in self.spool.receivers() {
            if !names.contains(&other.as_str()) {
                self.spool.forget(&other);
            }
        }
    }

    /// The undelivered notifications of all receivers; those of each receiver are in order.
    #[must_use]
    pub fn undelivered(&self) -> Vec<Notification> {
        let names = self.names().into_iter();
        names.flat_map(|name| self.spool.waiting(name)).collect()
    }

    /// Sends what waits, and what any process adds, until this future is dropped. Each receiver receives its
    /// notifications in order, and independently of the others.
    pub async fn send_always(&self) -> Result<(), PortError> {
        let client = client()?;
        let senders = self.senders(&client);
        join_all(senders.iter().map(Sender::send_always)).await;
        // Without a receiver there is nothing to send.
        std::future::pending().await
    }

    /// Sends what waits, and what any process adds, while `work` is done. Returns its result.
    pub async fn send_during<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let sent = tokio::select! {
            biased;
            done = &mut work => return done,
            sent = self.send_always() => sent,
        };
        if let Err(error) = sent {
            warn(&error.to_string());
        }
        work.await
    }

    /// Sends what waits, for at most `limit`. What is not delivered then stays in the queue.
    pub async fn send_within(&self, limit: Duration) -> Result<(), PortError> {
        if self.receivers.is_empty() {
            return Ok(());
        }
        let client = client()?;
        let senders = self.senders(&client);
        join_all(senders.iter().map(|sender| sender.send_within(limit))).await;
        Ok(())
    }

    /// Sends a test alert to each receiver once. Returns the receivers that did not accept it, and why.
    pub async fn test(&self) -> Result<Vec<(&'static str, String)>, PortError> {
        let client = client()?;
        let test = self.notification(
            Kind::Test,
            Timestamp::now(),
            None,
            "this is a test alert; nothing is wrong".to_owned(),
        );
        let mut failed = Vec::new();
        for receiver in &self.receivers {
            match post(&client, receiver, &test).await {
                Ok(()) => {}
                Err(Failure::Receiver(problem) | Failure::Notification(problem)) => {
                    failed.push((receiver.name, problem));
                }
            }
        }
        Ok(failed)
    }

    fn senders(
        &self,
        client: &reqwest::Client,
    ) -> Vec<Sender<'_, impl AsyncFn(&Notification) -> Result<(), Failure>>> {
        let receivers = self.receivers.iter();
        receivers
            .map(|receiver| Sender {
                receiver: receiver.name,
                spool: &self.spool,
                give_up_after: self.give_up_after,
                post: async move |notification: &Notification| {
                    post(client, receiver, notification).await
                },
            })
            .collect()
    }

    fn announced(&self) -> MutexGuard<'_, Option<Announced>> {
        self.announced
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn client() -> Result<reqwest::Client, PortError> {
    http::client_for_the_outside(Duration::from_secs(10))
}

async fn post(
    client: &reqwest::Client,
    receiver: &Receiver,
    notification: &Notification,
) -> Result<(), Failure> {
    // The address is a secret, so no error shows it.
    let request = client
        .post(&receiver.url)
        .header("content-type", "application/json")
        .body((receiver.body)(notification).to_string());
    let response = request
        .send()
        .await
        .map_err(|error| Failure::Receiver(cause(&error)))?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status @ (StatusCode::BAD_REQUEST
        | StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::UNPROCESSABLE_ENTITY) => {
            Err(Failure::Notification(format!("it answered {status}")))
        }
        status => Err(Failure::Receiver(format!("it answered {status}"))),
    }
}

/// A notification of this time.
#[cfg(test)]
pub(crate) fn test_notification(nanosecond: usize) -> Notification {
    let at = Timestamp::from_nanosecond(nanosecond as i128).unwrap();
    Notification {
        id: Notification::id_of(at, Kind::Down, None),
        kind: Kind::Down,
        at,
        color: None,
        text: format!("the router went down for time {nanosecond}"),
        deployment: None,
        version: None,
        reason: None,
        report: None,
        link: None,
        trace: None,
        history: None,
        router: "http://127.0.0.1:8080".to_owned(),
        by: "someone@example".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The notifier of an installation whose settings name these receivers.
    pub(super) fn notifier(state: &Path, receivers: &[&str]) -> Notifier {
        let mut settings = crate::config::load(None, &[]).unwrap();
        settings.state = state.to_owned();
        for name in receivers {
            let url = match *name {
                "webhook" => &mut settings.alerts.webhook,
                _ => &mut settings.alerts.slack,
            };
            "http://127.0.0.1:1/".clone_into(url);
        }
        Notifier::new(&settings)
    }

    fn alert(notifier: &Notifier, at: Timestamp) {
        notifier.alert(Kind::Down, at, None, "the router is down".to_owned());
    }

    #[test]
    fn removed_receiver_is_forgotten_by_the_next_monitor() {
        let state = tempfile::tempdir().unwrap();
        let both = notifier(state.path(), &["webhook", "slack"]);
        alert(&both, Timestamp::now());
        assert_eq!(both.undelivered().len(), 2);
        let slack = notifier(state.path(), &["slack"]);
        slack.forget_others();
        assert_eq!(slack.undelivered().len(), 1);
        assert_eq!(both.undelivered().len(), 1);
        assert_eq!(both.spool.receivers(), ["slack"]);
    }

    #[test]
    fn command_without_receivers_queues_for_those_of_the_monitor() {
        let state = tempfile::tempdir().unwrap();
        let monitor = notifier(state.path(), &["webhook"]);
        monitor.forget_others();
        alert(&notifier(state.path(), &[]), Timestamp::now());
        assert_eq!(monitor.undelivered().len(), 1);
    }

    #[test]
    fn receiver_that_no_process_sends_to_is_forgotten_in_time() {
        let state = tempfile::tempdir().unwrap();
        let removed = notifier(state.path(), &["slack"]);
        alert(&removed, Timestamp::UNIX_EPOCH);
        let command = notifier(state.path(), &[]);
        let sending = removed.spool.lock_sender("slack");
        alert(&command, Timestamp::now());
        assert_eq!(
            removed.undelivered().len(),
            2,
            "a process still sends to it"
        );
        drop(sending);
        alert(&command, Timestamp::now());
        assert_eq!(command.spool.receivers(), [""; 0]);
    }
}
