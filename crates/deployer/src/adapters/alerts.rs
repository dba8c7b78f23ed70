//! Sends alerts to webhooks.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinHandle};

use super::http::{self, cause};
use crate::{color::Color, config::Settings, holder::whoami, ports::WorldError, report::warn};

/// Something that a person wants to know at once. docs/events.md says what a webhook gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// `down`, `up`, `failover` or `test`.
    pub kind: &'static str,
    /// The color that it is about; none where it is about none.
    pub color: Option<Color>,
    /// One sentence.
    pub text: String,
}

/// Someone who gets alerts.
struct Receiver {
    name: &'static str,
    url: String,
    /// The body in which it wants them.
    body: fn(&Alert, &str) -> Value,
}

/// Everybody who gets alerts, each in order, none waiting for another.
pub struct Alerts {
    receivers: Vec<(&'static str, mpsc::UnboundedSender<Alert>)>,
    tasks: Vec<JoinHandle<bool>>,
}

impl Alerts {
    /// Those whom the settings name.
    pub fn new(settings: &Settings) -> Result<Self, WorldError> {
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
                receiver, queue, client, router, tries,
            )));
        }
        Ok(Self { receivers, tasks })
    }

    /// The names of those who get alerts.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.receivers.iter().map(|(name, _)| *name).collect()
    }

    /// Sends an alert, and does not wait for it.
    pub fn send(&self, alert: &Alert) {
        for (_, queue) in &self.receivers {
            // A task ends only when this does.
            let _ = queue.send(alert.clone());
        }
    }

    /// Waits until everything was taken or given up; returns how many receivers missed something.
    pub async fn finish(self) -> usize {
        drop(self.receivers);
        let mut failed = 0;
        for task in self.tasks {
            failed += usize::from(!task.await.unwrap_or(false));
        }
        failed
    }
}

/// Sends what comes, one after the other; whether everything was taken.
async fn deliver(
    receiver: Receiver,
    mut queue: mpsc::UnboundedReceiver<Alert>,
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
                    warn(&format!(
                        "an alert was not taken by alerts.{name}: {problem}"
                    ));
                    all_taken = false;
                }
                Err(_) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
            }
        }
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
    body["at"] = json!(Timestamp::now());
    body["router"] = json!(router);
    body["by"] = json!(whoami());
    body
}

fn slack(alert: &Alert, router: &str) -> Value {
    let Alert { kind, text, .. } = alert;
    json!({"text": format!("*{kind}* {text} ({router}, {})", whoami())})
}
