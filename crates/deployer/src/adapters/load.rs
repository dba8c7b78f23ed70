//! Generates load over HTTP/1.1. It runs on the machine of the measured server, so it does as little work per
//! request as possible.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Uri,
    client::conn::http1,
    header::{self, HeaderMap},
    http::uri::Scheme,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};

use crate::{
    adapters::generated::{read_document, read_stream},
    config::{ProbeKind, StreamSettings},
    evidence::{
        load::{LoadPlan, LoadResult},
        stream::{AnswerFailure, StreamTimes},
    },
    examples::Example,
    ports::PortError,
};

/// The kind of failure of requests that found no free connection in time.
const NEVER_SENT: &str = "timed out before it was sent";

/// The time between a refused connection and the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// What the answers are.
#[derive(Debug, Clone)]
pub struct Answers {
    /// What the requests ask for.
    pub kind: ProbeKind,
    /// When a stream is whole, and how long it may take.
    pub stream: StreamSettings,
}

/// Posts `examples` to `url` by the plan, with one task per connection, and with these headers.
///
/// A sent request is awaited, so the load ends at most [`LoadPlan::timeout`] late. Requests that were due by
/// then and found no free connection have timed out.
pub async fn generate(
    url: &str,
    examples: &[Example],
    headers: HeaderMap,
    plan: LoadPlan,
    answers: Answers,
) -> Result<LoadResult, PortError> {
    let uri: Uri = url
        .parse()
        .map_err(|error| PortError::Invalid(format!("cannot load {url}: {error}")))?;
    let authority = uri.authority().map(ToString::to_string);
    let Some(authority) = authority.filter(|_| uri.scheme() == Some(&Scheme::HTTP)) else {
        return Err(PortError::Invalid(format!(
            "cannot load {url}: load is made over plain http:// alone"
        )));
    };
    let address = match uri.port() {
        Some(_) => authority.clone(),
        None => format!("{authority}:80"),
    };
    let mut plan = plan;
    if answers.kind.is_streamed() {
        // A stream has limits of its own, and this one is never reached before them.
        plan.timeout = answers.stream.max_duration + answers.stream.max_silence * 2;
    }
    let target = Arc::new(ConnectionResult {
        answers,
        address,
        path: uri
            .path_and_query()
            .map_or("/", |it| it.as_str())
            .to_owned(),
        authority,
        headers,
        bodies: examples
            .iter()
            .map(|example| Bytes::from(example.body.clone()))
            .collect(),
        schedule: Schedule::new(plan),
        load: Mutex::default(),
    });
    let mut connections = JoinSet::new();
    for number in 0..plan.concurrency {
        connections.spawn(Connection::new(Arc::clone(&target), number, plan).run());
    }
    while let Some(ended) = connections.join_next().await {
        ended.map_err(|error| PortError::Other(format!("the load ended early: {error}")))?;
    }
    let mut load = std::mem::take(&mut *target.load());
    load.elapsed = plan.duration;
    while let Some(due) = target.schedule.next_in_an_open_loop() {
        load.timed_out(NEVER_SENT, target.schedule.closes() - due);
    }
    Ok(load)
}

/// State of all connections.
struct ConnectionResult {
    answers: Answers,
    address: String,
    authority: String,
    path: String,
    headers: HeaderMap,
    bodies: Vec<Bytes>,
    schedule: Schedule,
    /// One for all: a histogram per connection would take megabytes for hundreds of connections.
    load: Mutex<LoadResult>,
}

impl ConnectionResult {
    fn load(&self) -> MutexGuard<'_, LoadResult> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When requests are due.
struct Schedule {
    began: Instant,
    until: Instant,
    timeout: Duration,
    interval: Option<Duration>,
    next: AtomicU64,
}

impl Schedule {
    fn new(plan: LoadPlan) -> Self {
        let began = Instant::now();
        Self {
            began,
            until: began + plan.duration,
            timeout: plan.timeout,
            interval: plan.rate.map(|rate| Duration::from_secs_f64(1.0 / rate)),
            next: AtomicU64::new(0),
        }
    }

    /// When the next request is due: at once in a closed loop. `None` after the last one.
    fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        if self.interval.is_none() {
            return (now < self.until).then_some(now);
        }
        if now >= self.closes() {
            return None;
        }
        self.next_in_an_open_loop()
    }

    fn next_in_an_open_loop(&self) -> Option<Instant> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.began + self.interval?.mul_f64(number as f64);
        (due < self.until).then_some(due)
    }

    /// When the last request must be answered.
    fn closes(&self) -> Instant {
        self.until + self.timeout
    }
}

type Sender = http1::SendRequest<Full<Bytes>>;

/// One connection. It reconnects when it breaks.
struct Connection {
    target: Arc<ConnectionResult>,
    timeout: Duration,
    next: usize,
    step: usize,
    sender: Option<Sender>,
}

impl Connection {
    fn new(target: Arc<ConnectionResult>, number: usize, plan: LoadPlan) -> Self {
        Self {
            target,
            timeout: plan.timeout,
            next: number,
            step: plan.concurrency,
            sender: None,
        }
    }

    async fn run(mut self) {
        let target = Arc::clone(&self.target);
        while let Some(due) = target.schedule.next() {
            // In an open loop latency counts from here, also if this program is late: a user would wait as
            // well.
            let began = due;
            sleep_until(due).await;
            let body = target.bodies[self.next % target.bodies.len()].clone();
            self.next += self.step;
            let bound = Instant::now() + self.timeout;
            let bound = bound.min(target.schedule.closes());
            let failure = match timeout_at(bound, self.post(body, began)).await {
                Ok(Ok(stream)) => {
                    let now = Instant::now();
                    let mut load = target.load();
                    match stream {
                        Some(times) => load.streamed(&times),
                        None => load.answered(now - began),
                    }
                    load.in_time += u64::from(now < target.schedule.until);
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(_) => {
                    self.sender = None;
                    target.load().timed_out("timed out", began.elapsed());
                    continue;
                }
            };
            match failure {
                Failure::Status(status) => target.load().failed(&format!("status {status}")),
                Failure::Answer(failure) => {
                    // The rest of the answer may still be on its way.
                    self.sender = None;
                    target.load().failed(failure.kind());
                }
                Failure::Broken(how) => {
                    self.sender = None;
                    target.load().failed(&how);
                }
                Failure::Refused(how) => {
                    target.load().failed(&how);
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Posts a request that was due at `began`. Returns the times of a stream.
    async fn post(&mut self, body: Bytes, began: Instant) -> Result<Option<StreamTimes>, Failure> {
        let ready = match &mut self.sender {
            // The server may close an idle connection between two requests: reconnect.
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            self.sender = Some(connect(&self.target.address).await?);
        }
        let sender = self.sender.as_mut().expect("just connected");
        let mut request = Request::post(self.target.path.as_str())
            .header(header::HOST, self.target.authority.as_str())
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.target.headers.clone());
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Broken(error.to_string()))?;
        let broken = |error: &hyper::Error| Failure::Broken(how(error));
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let status = response.status();
        let Answers { kind, stream } = &self.target.answers;
        if status.is_success() && kind.is_streamed() {
            let (head, body) = response.into_parts();
            let answer = read_stream(stream, began, &head.headers, body).await;
            return Ok(Some(answer.map_err(Failure::Answer)?.times));
        }
        if status.is_success() && kind.generates() {
            let text = read_document(response.into_body()).await;
            let text = text.ok_or_else(|| Failure::Broken("connection closed".to_owned()))?;
            return text.map(|_| None).map_err(Failure::Answer);
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            frame.map_err(|error| broken(&error))?;
        }
        if status.is_success() {
            Ok(None)
        } else {
            Err(Failure::Status(status.as_u16()))
        }
    }
}

enum Failure {
    /// A generated answer that is of no use.
    Answer(AnswerFailure),
    /// An answer without success.
    Status(u16),
    /// The connection broke.
    Broken(String),
    /// The connection could not be opened.
    Refused(String),
}

async fn connect(address: &str) -> Result<Sender, Failure> {
    let refused = |error: std::io::Error| Failure::Refused(error.kind().to_string());
    let stream = TcpStream::connect(address).await.map_err(refused)?;
    stream.set_nodelay(true).map_err(refused)?;
    let (sender, driver) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Failure::Refused(how(&error)))?;
    // Ends with the connection, which ends with its sender.
    tokio::spawn(driver);
    Ok(sender)
}

/// A short name, so that equal failures are counted together.
fn how(error: &hyper::Error) -> String {
    use std::error::Error as _;

    let cause = error
        .source()
        .and_then(|cause| cause.downcast_ref::<std::io::Error>());
    match cause {
        Some(cause) => cause.kind().to_string(),
        None if error.is_incomplete_message() => "connection closed".to_owned(),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
