//! Client traffic over keep-alive connections, with a record of every request.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, StatusCode, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// One request and its result.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When the client began to send it.
    pub started: Instant,
    /// How long the client waited.
    pub took: Duration,
    /// The version that answered with success, or the error.
    pub outcome: Result<String, String>,
}

/// Every request of a run, in the order of their ends.
#[derive(Debug, Clone, Default)]
pub struct Log {
    /// The requests.
    pub answers: Vec<Answer>,
}

impl Log {
    /// Each kind of error with its count.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&str, usize> {
        let mut failures = BTreeMap::new();
        for answer in &self.answers {
            if let Err(problem) = &answer.outcome {
                *failures.entry(problem.as_str()).or_default() += 1;
            }
        }
        failures
    }

    /// The number of requests that each version answered.
    #[must_use]
    pub fn by_version(&self) -> BTreeMap<&str, usize> {
        let mut versions = BTreeMap::new();
        for version in self
            .answers
            .iter()
            .filter_map(|answer| answer.outcome.as_deref().ok())
        {
            *versions.entry(version).or_default() += 1;
        }
        versions
    }

    /// Fails if a request failed, and names the errors.
    pub fn ensure_none_failed(&self) -> anyhow::Result<()> {
        let failures = self.failures();
        anyhow::ensure!(
            failures.is_empty(),
            "of {} requests: {failures:?}",
            self.answers.len()
        );
        Ok(())
    }

    /// Fails unless requests were answered, all of them by `version`.
    pub fn ensure_answered_by(&self, version: &str) -> anyhow::Result<()> {
        let versions = self.by_version();
        anyhow::ensure!(
            versions.keys().eq([&version]),
            "answered by {versions:?}, not by {version} alone"
        );
        Ok(())
    }

    /// The requests that began at `from` or later and ended before `until`.
    ///
    /// A request that began before `until` and ended later may have reached the router after the next switch,
    /// so it says nothing about this one.
    #[must_use]
    pub fn between(&self, from: Instant, until: Instant) -> Self {
        let within =
            |answer: &&Answer| answer.started >= from && answer.started + answer.took < until;
        Self {
            answers: self.answers.iter().filter(within).cloned().collect(),
        }
    }
}

/// Traffic until it is stopped.
///
/// Each connection is one socket that the client keeps open. No request is repeated, so a reset connection
/// counts as a failure.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Log>>,
    connections: JoinSet<()>,
}

impl Traffic {
    /// Posts `bodies` to `/predict` over this many connections. Each one pauses after an answer.
    #[must_use]
    pub fn start(
        router: SocketAddr,
        connections: usize,
        pause: Duration,
        bodies: Vec<String>,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(Log::default()));
        let bodies: Arc<[Bytes]> = bodies.into_iter().map(Bytes::from).collect();
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (stop, log, bodies) = (Arc::clone(&stop), Arc::clone(&log), Arc::clone(&bodies));
            tasks.spawn(async move {
                let mut connection = None;
                let mut next = number;
                while !stop.load(Ordering::Relaxed) {
                    let body = bodies[next % bodies.len()].clone();
                    next += connections;
                    let started = Instant::now();
                    let outcome = predict(&mut connection, router, body).await;
                    let answer = Answer {
                        started,
                        took: started.elapsed(),
                        outcome: outcome.map_err(|error| format!("{error:#}")),
                    };
                    log.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .answers
                        .push(answer);
                    tokio::time::sleep(pause).await;
                }
            });
        }
        Self {
            stop,
            log,
            connections: tasks,
        }
    }

    /// The number of requests so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .answers
            .len()
    }

    /// A copy of the record so far.
    #[must_use]
    pub fn so_far(&self) -> Log {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until this many requests have ended.
    pub async fn reach(&self, count: usize) -> anyhow::Result<()> {
        let reached = async {
            while self.count() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(2), reached)
            .await
            .with_context(|| {
                format!(
                    "only {} of {count} requests within two minutes",
                    self.count()
                )
            })
    }

    /// Lets every connection finish its request. Returns the record.
    pub async fn stop(mut self) -> Log {
        self.stop.store(true, Ordering::Relaxed);
        while self.connections.join_next().await.is_some() {}
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Longer than the router waits for a color that hangs.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(130);

type Connection = SendRequest<Full<Bytes>>;

async fn predict(
    connection: &mut Option<Connection>,
    router: SocketAddr,
    body: Bytes,
) -> anyhow::Result<String> {
    tokio::time::timeout(CLIENT_TIMEOUT, send(connection, router, body))
        .await
        .context("no answer within the client's patience")?
}

async fn send(
    connection: &mut Option<Connection>,
    router: SocketAddr,
    body: Bytes,
) -> anyhow::Result<String> {
    // A connection is reused after an answer with any status. A broken one is not.
    let open = match connection.take() {
        // The router announced that it closes the idle connection: reconnect.
        Some(mut kept) => kept.ready().await.is_ok().then_some(kept),
        None => None,
    };
    let mut sender = match open {
        Some(open) => open,
        None => connect(router).await?,
    };
    let request = Request::post("/predict")
        .header("host", "router")
        .header("content-type", "application/json")
        .body(Full::new(body))?;
    let response = sender
        .send_request(request)
        .await
        .context("the connection broke")?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .context("the answer broke off")?
        .to_bytes();
    *connection = Some(sender);
    anyhow::ensure!(status == StatusCode::OK, "status {status}");
    let answer: serde_json::Value =
        serde_json::from_slice(&body).context("the answer is not JSON")?;
    let version = answer["model_version"]
        .as_str()
        .context("the answer names no version")?;
    Ok(version.to_owned())
}

async fn connect(router: SocketAddr) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(router).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection, which ends with its sender.
    tokio::spawn(driver);
    Ok(sender)
}
