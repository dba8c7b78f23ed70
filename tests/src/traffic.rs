//! Sends client traffic over keep-alive connections, and records every request.

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
use hyper::{Method, Request, StatusCode, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// A request and its outcome.
#[derive(Debug, Clone)]
pub struct RequestRecord {
    /// When the client began to send the request, or to connect for it.
    pub started: Instant,
    /// How long the client waited for the outcome.
    pub duration: Duration,
    /// The version in the successful response, or the error.
    pub outcome: Result<String, String>,
}

/// The record of all requests, in the order in which they ended.
#[derive(Debug, Clone, Default)]
pub struct TrafficLog {
    /// The requests.
    pub requests: Vec<RequestRecord>,
}

impl TrafficLog {
    /// Returns each error with its count.
    #[must_use]
    pub fn failures(&self) -> BTreeMap<&str, usize> {
        let mut failures = BTreeMap::new();
        for request in &self.requests {
            if let Err(error) = &request.outcome {
                *failures.entry(error.as_str()).or_default() += 1;
            }
        }
        failures
    }

    /// Returns the number of requests that each version answered.
    #[must_use]
    pub fn by_version(&self) -> BTreeMap<&str, usize> {
        let mut versions = BTreeMap::new();
        for version in self
            .requests
            .iter()
            .filter_map(|request| request.outcome.as_deref().ok())
        {
            *versions.entry(version).or_default() += 1;
        }
        versions
    }

    /// Fails if a request failed. The error lists all errors with their counts.
    pub fn ensure_none_failed(&self) -> anyhow::Result<()> {
        let failures = self.failures();
        anyhow::ensure!(
            failures.is_empty(),
            "of {} requests, some failed: {failures:?}",
            self.requests.len()
        );
        Ok(())
    }

    /// Fails unless at least one request was answered, and all answered ones by `version`.
    pub fn ensure_answered_only_by(&self, version: &str) -> anyhow::Result<()> {
        let versions = self.by_version();
        anyhow::ensure!(
            versions.keys().eq([&version]),
            "answered by {versions:?}, not only by {version}"
        );
        Ok(())
    }

    /// Returns the requests that began at `from` or later, and ended before `until`.
    ///
    /// A request that began before `until` and ended later may have reached the router after the next switch.
    /// So either version may answer it.
    #[must_use]
    pub fn between(&self, from: Instant, until: Instant) -> Self {
        let within = |it: &&RequestRecord| it.started >= from && it.started + it.duration < until;
        Self {
            requests: self.requests.iter().filter(within).cloned().collect(),
        }
    }
}

/// What the clients of one traffic send, and how they behave.
#[derive(Debug, Clone)]
pub struct Clients {
    /// The method of each request.
    pub method: Method,
    /// The path of each request.
    pub path: &'static str,
    /// An additional header of each request.
    pub header: Option<(&'static str, &'static str)>,
    /// The bodies, sent in turn.
    pub bodies: Vec<String>,
    /// The clients disconnect if they have no response after this time.
    pub timeout: Duration,
    /// Whether the clients disconnect after the beginning of each response's body.
    pub leave_early: bool,
}

impl Clients {
    /// Clients that post `bodies` to `/predict`, and wait long.
    #[must_use]
    pub fn predicting(bodies: Vec<String>) -> Self {
        Self {
            method: Method::POST,
            path: "/predict",
            header: None,
            bodies,
            timeout: CLIENT_TIMEOUT,
            leave_early: false,
        }
    }

    /// Clients that ask for a path without a body.
    #[must_use]
    pub fn asking(method: Method, path: &'static str) -> Self {
        Self {
            method,
            path,
            ..Self::predicting(vec![String::new()])
        }
    }
}

/// Running client traffic.
///
/// Each client keeps one connection open, and never retries. So a reset connection counts as a failure.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<TrafficLog>>,
    connections: JoinSet<()>,
}

impl Traffic {
    /// Posts `bodies` to `/predict` over this many connections. Each client pauses after a response.
    #[must_use]
    pub fn start(
        router: SocketAddr,
        connections: usize,
        pause: Duration,
        bodies: Vec<String>,
    ) -> Self {
        Self::start_impatient(router, connections, pause, bodies, CLIENT_TIMEOUT)
    }

    /// The same, with clients that disconnect if they have no response after this time.
    #[must_use]
    pub fn start_impatient(
        router: SocketAddr,
        connections: usize,
        pause: Duration,
        bodies: Vec<String>,
        timeout: Duration,
    ) -> Self {
        let clients = Clients {
            timeout,
            ..Clients::predicting(bodies)
        };
        Self::start_clients(router, connections, pause, clients)
    }

    /// Sends the requests of `clients` over this many connections. Each client pauses after a response.
    #[must_use]
    pub fn start_clients(
        router: SocketAddr,
        connections: usize,
        pause: Duration,
        mut clients: Clients,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let log = Arc::new(Mutex::new(TrafficLog::default()));
        let bodies: Arc<[Bytes]> = clients.bodies.drain(..).map(Bytes::from).collect();
        let clients = Arc::new(clients);
        let mut tasks = JoinSet::new();
        for number in 0..connections {
            let (stop, log, bodies) = (Arc::clone(&stop), Arc::clone(&log), Arc::clone(&bodies));
            let clients = Arc::clone(&clients);
            tasks.spawn(async move {
                let mut connection = None;
                let mut next = number;
                while !stop.load(Ordering::Relaxed) {
                    let body = bodies[next % bodies.len()].clone();
                    next += connections;
                    let started = Instant::now();
                    let outcome = exchange(&mut connection, router, &clients, body).await;
                    let record = RequestRecord {
                        started,
                        duration: started.elapsed(),
                        outcome: outcome.map_err(|error| format!("{error:#}")),
                    };
                    log.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .requests
                        .push(record);
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

    /// Returns the number of requests that have ended.
    #[must_use]
    pub fn count(&self) -> usize {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .requests
            .len()
    }

    /// Returns a copy of the record so far.
    #[must_use]
    pub fn snapshot(&self) -> TrafficLog {
        self.log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until this many requests have ended. Fails after two minutes.
    pub async fn wait_for_requests(&self, count: usize) -> anyhow::Result<()> {
        let reached = async {
            while self.count() < count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(2), reached)
            .await
            .with_context(|| {
                format!(
                    "only {} of {count} requests ended within two minutes",
                    self.count()
                )
            })
    }

    /// Stops the traffic after every client's current request. Returns the record.
    pub async fn stop(mut self) -> TrafficLog {
        self.stop.store(true, Ordering::Relaxed);
        while self.connections.join_next().await.is_some() {}
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Longer than the router's timeout for a color that hangs.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(130);

type Connection = SendRequest<Full<Bytes>>;

async fn exchange(
    connection: &mut Option<Connection>,
    router: SocketAddr,
    clients: &Clients,
    body: Bytes,
) -> anyhow::Result<String> {
    tokio::time::timeout(clients.timeout, send(connection, router, clients, body))
        .await
        .context("no response within the client's timeout")?
}

/// Returns the version in a successful prediction, and the status of any other successful response.
async fn send(
    connection: &mut Option<Connection>,
    router: SocketAddr,
    clients: &Clients,
    body: Bytes,
) -> anyhow::Result<String> {
    // A connection is reused after a response with any status, but never after an error.
    let open = match connection.take() {
        // A connection that the router has closed while it was idle is replaced.
        Some(mut idle) => idle.ready().await.is_ok().then_some(idle),
        None => None,
    };
    let mut sender = match open {
        Some(open) => open,
        None => connect(router).await?,
    };
    let mut request = Request::builder()
        .method(clients.method.clone())
        .uri(clients.path)
        .header("host", "router")
        .header("content-type", "application/json");
    if let Some((name, value)) = clients.header {
        request = request.header(name, value);
    }
    let response = sender
        .send_request(request.body(Full::new(body))?)
        .await
        .context("the connection broke before the response")?;
    let status = response.status();
    let mut body = response.into_body();
    if clients.leave_early {
        // The connection ends with its sender.
        let beginning = body.frame().await.context("the response has no body")?;
        beginning.context("the connection broke during the response")?;
        return Ok(format!("left after status {status}"));
    }
    let body = body
        .collect()
        .await
        .context("the connection broke during the response")?
        .to_bytes();
    *connection = Some(sender);
    anyhow::ensure!(status == StatusCode::OK, "status {status}");
    if clients.path != "/predict" {
        return Ok(format!("status {status}"));
    }
    let prediction: serde_json::Value =
        serde_json::from_slice(&body).context("the response is not JSON")?;
    let version = prediction["model_version"]
        .as_str()
        .context("the response has no model_version")?;
    Ok(version.to_owned())
}

async fn connect(router: SocketAddr) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(router).await.context("cannot connect")?;
    stream.set_nodelay(true)?;
    let (sender, driver) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // This task ends with the connection, and the connection ends when its sender is dropped.
    tokio::spawn(driver);
    Ok(sender)
}
