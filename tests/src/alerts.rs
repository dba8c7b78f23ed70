//! A receiver of alerts.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Json, Router, extract::State, http::StatusCode, routing::post};
use serde_json::Value;
use tokio::{net::TcpListener, task::JoinHandle};

type SharedInbox = Arc<Mutex<Inbox>>;

#[derive(Default)]
struct Inbox {
    /// The number of alerts to reject first.
    turn_away: usize,
    alerts: Vec<Value>,
}

/// A webhook on its own port, until dropped.
pub struct Receiver {
    address: SocketAddr,
    inbox: SharedInbox,
    server: JoinHandle<std::io::Result<()>>,
}

impl Receiver {
    /// Starts a receiver that rejects this many alerts first.
    pub async fn start(turn_away: usize) -> anyhow::Result<Self> {
        let inbox = SharedInbox::default();
        lock(&inbox).turn_away = turn_away;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let routes = Router::new()
            .route("/alerts", post(take))
            .with_state(Arc::clone(&inbox));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self {
            address,
            inbox,
            server,
        })
    }

    /// The webhook's address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// Every accepted alert, in order.
    #[must_use]
    pub fn alerts(&self) -> Vec<Value> {
        lock(&self.inbox).alerts.clone()
    }

    /// Waits for an alert of this kind about this color. Returns how long that took.
    pub async fn until(&self, kind: &str, color: &str) -> anyhow::Result<Duration> {
        const PATIENCE: Duration = Duration::from_secs(40);

        let began = Instant::now();
        let is_it = |alert: &Value| alert["kind"] == kind && alert["color"] == color;
        let come = async {
            while !self.alerts().iter().any(is_it) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, come)
            .await
            .with_context(|| format!("no {kind} of {color} in {:?}", self.alerts()))?;
        Ok(began.elapsed())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(inbox: &SharedInbox) -> std::sync::MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(State(inbox): State<SharedInbox>, Json(alert): Json<Value>) -> StatusCode {
    let mut inbox = lock(&inbox);
    if inbox.turn_away > 0 {
        inbox.turn_away -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    inbox.alerts.push(alert);
    StatusCode::OK
}
