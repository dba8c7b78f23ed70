//! Sends alerts to webhooks.

mod alert;
mod outbox;

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

pub use self::alert::{Alert, Kind};
use crate::{
    adapters::{
        alerts::outbox::Outbox,
        http::{self, cause},
    },
    config::Settings,
    ports::PortError,
    report::warn,
    state::lock_holder::current_user,
};

/// A receiver of alerts.
struct Receiver {
    name: &'static str,
    url: String,
    /// Formats the request body.
    body: fn(&Alert, &str) -> Value,
}

/// The longest time between two attempts to send an alert.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// All receivers. Each receives its alerts in order and independently of the others.
pub struct Alerts {
    outbox: Arc<Outbox>,
    receivers: Vec<(&'static str, mpsc::UnboundedSender<Alert>)>,
    tasks: Vec<JoinHandle<bool>>,
}

impl Alerts {
    /// Creates the receivers of the settings. Alerts in the file `undelivered`, left by an earlier run, are
    /// sent first.
    pub fn new(settings: &Settings, undelivered: Option<PathBuf>) -> Result<Self, PortError> {
        let outbox = Arc::new(Outbox::open(undelivered));
        let client = http::client_for_the_outside(Duration::from_secs(10))?;
        let (mut receivers, mut tasks) = (Vec::new(), Vec::new());
        for receiver in [
            Receiver {
                name: "webhook",
                url: settings.alerts.webhook.clone(),
                body: generic,
            },
            Receiver {
                name: "slack",
                url: settings.alerts.slack.clone(),
                body: slack,
            },
        ] {
            if receiver.url.is_empty() {
                continue;
            }
            let (sender, queue) = mpsc::unbounded_channel();
            receivers.push((receiver.name, sender));
            let (client, router) = (client.clone(), settings.router.url.clone());
            let tries = settings.alerts.tries;
            tasks.push(tokio::spawn(deliver(
                receiver,
                queue,
                Arc::clone(&outbox),
                client,
                router,
                tries,
            )));
        }
        let alerts = Self {
            outbox,
            receivers,
            tasks,
        };
        for (name, alert) in alerts.outbox.waiting() {
            alerts.hand_to(&name, &alert);
        }
        Ok(alerts)
    }

    /// The names of the receivers.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.receivers.iter().map(|(name, _)| *name).collect()
    }

    /// Queues an alert for every receiver.
    pub fn send(&self, alert: &Alert) {
        self.outbox.add(&self.names(), alert);
        for name in self.names() {
            self.hand_to(name, alert);
        }
    }

    /// The undelivered alerts, oldest first.
    #[must_use]
    pub fn undelivered(&self) -> Vec<Alert> {
        let waiting = self.outbox.waiting().into_iter();
        waiting.map(|(_, alert)| alert).collect()
    }

    fn hand_to(&self, receiver: &str, alert: &Alert) {
        for (name, queue) in &self.receivers {
            if *name == receiver {
                // The task of a receiver ends when its queue is dropped.
                let _ = queue.send(alert.clone());
            }
        }
    }

    /// Waits until every alert is delivered or given up. Returns how many receivers missed one.
    pub async fn finish(self) -> usize {
        drop(self.receivers);
        let mut failed = 0;
        for task in self.tasks {
            failed += usize::from(!task.await.unwrap_or(false));
        }
        failed
    }
}

/// Sends queued alerts in order. Returns whether all were delivered.
async fn deliver(
    receiver: Receiver,
    mut queue: mpsc::UnboundedReceiver<Alert>,
    outbox: Arc<Outbox>,
    client: reqwest::Client,
    router: String,
    tries: u32,
) -> bool {
    let mut all_taken = true;
    while let Some(alert) = queue.recv().await {
        let body = (receiver.body)(&alert, &router).to_string();
        let mut pause = Duration::from_secs(1);
        for tried in 1..=tries {
            match post(&client, &receiver.url, &body).await {
                Ok(()) => break,
                Err(problem) if tried == tries => {
                    // The address is a secret.
                    let name = receiver.name;
                    warn(&format!("alerts.{name} did not accept an alert: {problem}"));
                    all_taken = false;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        outbox.remove(receiver.name, &alert);
    }
    all_taken
}

async fn post(client: &reqwest::Client, url: &str, body: &str) -> Result<(), String> {
    let request = client
        .post(url)
        .header("content-type", "application/json")
        .body(body.to_owned());
    let response = request.send().await.map_err(|error| cause(&error))?;
    let status = response.status();
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("it answered {status}"))
    }
}

fn generic(alert: &Alert, router: &str) -> Value {
    let mut body = json!(alert);
    body["schema"] = json!(1);
    body["router"] = json!(router);
    body["by"] = json!(current_user());
    body
}

fn slack(alert: &Alert, router: &str) -> Value {
    let Alert { kind, text, .. } = alert;
    let kind = json!(kind);
    let kind = kind.as_str().unwrap_or_default();
    json!({"text": format!("*{kind}* {text} ({router}, {})", current_user())})
}
