//! A webhook that receives alerts.

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
    /// The number of alerts that are still rejected with 503.
    rejections_left: usize,
    accepted: Vec<Value>,
}

/// A webhook on its own port. It stops when it is dropped.
pub struct AlertReceiver {
    address: SocketAddr,
    inbox: SharedInbox,
    server: JoinHandle<std::io::Result<()>>,
}

impl AlertReceiver {
    /// Starts a webhook that rejects the first `rejections` alerts with 503.
    pub async fn start(rejections: usize) -> anyhow::Result<Self> {
        let inbox = SharedInbox::default();
        lock(&inbox).rejections_left = rejections;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let routes = Router::new()
            .route("/alerts", post(receive_alert))
            .with_state(Arc::clone(&inbox));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        Ok(Self {
            address,
            inbox,
            server,
        })
    }

    /// The webhook's URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// All accepted alerts, in the order of their arrival.
    #[must_use]
    pub fn alerts(&self) -> Vec<Value> {
        lock(&self.inbox).accepted.clone()
    }

    /// The kinds of all accepted alerts, in the order of their arrival.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        let kinds = self.alerts().into_iter();
        kinds
            .map(|alert| alert["kind"].as_str().unwrap_or_default().to_owned())
            .collect()
    }

    /// Waits for an alert of this kind about this color. Returns the time waited; fails after 40 s.
    pub async fn wait_for_alert(&self, kind: &str, color: &str) -> anyhow::Result<Duration> {
        const ALERT_TIMEOUT: Duration = Duration::from_secs(40);

        let began = Instant::now();
        let matches = |alert: &Value| alert["kind"] == kind && alert["color"] == color;
        let received = async {
            while !self.alerts().iter().any(matches) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(ALERT_TIMEOUT, received)
            .await
            .with_context(|| {
                format!(
                    "no alert `{kind}` about {color} within {ALERT_TIMEOUT:?}; received: {:?}",
                    self.alerts()
                )
            })?;
        Ok(began.elapsed())
    }
}

impl Drop for AlertReceiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn lock(inbox: &SharedInbox) -> std::sync::MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn receive_alert(State(inbox): State<SharedInbox>, Json(alert): Json<Value>) -> StatusCode {
    let mut inbox = lock(&inbox);
    if inbox.rejections_left > 0 {
        inbox.rejections_left -= 1;
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    inbox.accepted.push(alert);
    StatusCode::OK
}
