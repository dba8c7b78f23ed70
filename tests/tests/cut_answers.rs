//! Real nginx logs requests of every ending, and the deployer's reading of its logs tells each of them.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use deployer::{
    adapters::connect,
    color::Color,
    config,
    evidence::request::{Ending, Request},
    ports::{Ports, RequestLog},
};
use end_to_end::{BakeDuration, Stack};

/// Requests of each kind.
const REQUESTS: usize = 1_000;
const CLIENTS: usize = 16;

/// What the server and the client do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Whole,
    WholeChunked,
    /// The server closes in an answer with `Content-Length`.
    Cut,
    /// The server closes in a chunked answer.
    CutChunked,
    /// The server sends a chunk without a valid length.
    InvalidChunk,
    /// The client disconnects in the answer.
    Left,
    /// The client disconnects in a stream of unknown length.
    LeftStream,
    /// The client disconnects before the head of the answer.
    GaveUp,
    Refused,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Whole,
        Self::WholeChunked,
        Self::Cut,
        Self::CutChunked,
        Self::InvalidChunk,
        Self::Left,
        Self::LeftStream,
        Self::GaveUp,
        Self::Refused,
    ];

    /// The kind that a path names.
    fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| path == kind.path())
    }

    fn path(self) -> String {
        format!("/{self:?}")
    }

    fn ending(self) -> Ending {
        match self {
            Self::Whole | Self::WholeChunked => Ending::Answered,
            Self::Cut | Self::CutChunked | Self::InvalidChunk => Ending::Cut,
            Self::Left | Self::LeftStream => Ending::Left,
            Self::GaveUp => Ending::GaveUp,
            Self::Refused => Ending::Refused(422),
        }
    }

    /// What the server sends.
    fn answer(self) -> String {
        let chunked = "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nanswer\r\n";
        let answer = match self {
            Self::Whole => "200 OK\r\nContent-Length: 6\r\n\r\nanswer".to_owned(),
            Self::WholeChunked => format!("{chunked}0\r\n\r\n"),
            Self::Cut => "200 OK\r\nContent-Length: 100\r\n\r\nanswer".to_owned(),
            Self::CutChunked => chunked.to_owned(),
            Self::InvalidChunk => format!("{chunked}x\r\n"),
            // nginx keeps less than 1,460 bytes back until more arrives.
            Self::Left => format!(
                "200 OK\r\nContent-Length: 10000\r\n\r\n{}",
                "answer".repeat(1_000)
            ),
            Self::LeftStream => format!(
                "200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n1770\r\n{}\r\n",
                "answer".repeat(1_000)
            ),
            Self::GaveUp => return String::new(),
            Self::Refused => "422 Unprocessable Entity\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        };
        // The server closes each connection.
        let (status, rest) = answer.split_once("\r\n").unwrap_or_default();
        format!("HTTP/1.1 {status}\r\nConnection: close\r\n{rest}")
    }
}

/// Reads until the text ends in `end`, or the other side closes. Returns what it read.
fn read_until(stream: &mut TcpStream, end: &str) -> anyhow::Result<String> {
    let (mut text, mut part) = (String::new(), [0; 4096]);
    while !text.ends_with(end) {
        let length = stream.read(&mut part)?;
        if length == 0 {
            break;
        }
        text += std::str::from_utf8(&part[..length])?;
    }
    Ok(text)
}

/// Answers one request. Tells its client if it gets no answer.
fn serve(mut stream: TcpStream, unanswered: &[mpsc::Sender<()>]) -> anyhow::Result<()> {
    let head = read_until(&mut stream, "\r\n\r\n")?;
    let kind = head.split(' ').nth(1).and_then(Kind::of_path);
    let kind = kind.with_context(|| head.clone())?;
    stream.write_all(kind.answer().as_bytes())?;
    if kind == Kind::GaveUp {
        let (_, client) = head.split_once("client: ").context("no client")?;
        let client: usize = client.split("\r\n").next().unwrap_or_default().parse()?;
        unanswered[client].send(())?;
    }
    if matches!(kind, Kind::GaveUp | Kind::Left | Kind::LeftStream) {
        // Returns when nginx closes, because the client disconnected.
        read_until(&mut stream, "\0")?;
    }
    Ok(())
}

/// Serves until the test ends.
fn start_server(listener: TcpListener, unanswered: Vec<mpsc::Sender<()>>) {
    let unanswered = Arc::new(unanswered);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let unanswered = Arc::clone(&unanswered);
            // An error shows in the log, as another ending than the expected one.
            thread::spawn(move || serve(stream, &unanswered));
        }
    });
}

/// Sends the requests one by one, over as few connections as possible.
fn run_client(
    client: usize,
    router: SocketAddr,
    kinds: &[(usize, Kind)],
    unanswered: &mpsc::Receiver<()>,
) -> anyhow::Result<()> {
    let mut connection = None;
    for (id, kind) in kinds {
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => TcpStream::connect(router)?,
        };
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: test\r\nclient: {client}\r\nX-Request-Id: {id}\r\n\r\n",
            kind.path()
        );
        stream.write_all(request.as_bytes())?;
        match kind {
            Kind::Whole | Kind::Refused => {
                let end = if *kind == Kind::Whole { "answer" } else { "no" };
                read_until(&mut stream, end)?;
                connection = Some(stream);
            }
            Kind::WholeChunked => {
                read_until(&mut stream, "0\r\n\r\n")?;
                connection = Some(stream);
            }
            Kind::Cut | Kind::CutChunked => {
                let answer = read_until(&mut stream, "\0")?;
                ensure!(answer.contains("answer"), "{answer}");
            }
            Kind::InvalidChunk => {
                read_until(&mut stream, "\0")?;
            }
            Kind::Left | Kind::LeftStream => ensure!(stream.read(&mut [0; 100])? > 0, "no answer"),
            Kind::GaveUp => unanswered.recv_timeout(Duration::from_secs(30))?,
        }
    }
    Ok(())
}

/// Reads the log until it has told the endings of this many requests. Fails after a minute, or if a client fails.
async fn read_requests(
    log: &dyn RequestLog,
    count: usize,
    failures: mpsc::Receiver<anyhow::Error>,
) -> anyhow::Result<Vec<Request>> {
    let (mut requests, mut next) = (Vec::new(), None);
    let started = Instant::now();
    while requests.len() < count {
        if let Ok(failure) = failures.try_recv() {
            return Err(failure);
        }
        ensure!(
            started.elapsed() < Duration::from_mins(1),
            "{} requests",
            requests.len()
        );
        let part = log.read(next).await?;
        ensure!(part.unparsable == 0 && part.problem.is_none(), "{part:?}");
        requests.extend(part.requests);
        next = Some(part.next);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(requests)
}

async fn start_router(ports: &Ports) -> anyhow::Result<()> {
    ports.fleet.start_router().await?;
    let answers = async {
        while ports.router.active().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let answers = tokio::time::timeout(Duration::from_secs(30), answers);
    answers
        .await
        .context("the router does not answer within 30 s")
}

#[tokio::test(flavor = "multi_thread")]
async fn log_tells_the_ending_of_every_request() -> anyhow::Result<()> {
    let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(1)))?;
    let process = ["fleet.kind=process".to_owned()];
    let settings = config::load(Some(&stack.path("deployer.toml")), &process)?;
    let ports = connect(&settings)?;
    start_router(&ports).await?;

    let listener = TcpListener::bind(("127.0.0.1", stack.ports().blue()))?;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..CLIENTS).map(|_| mpsc::channel()).unzip();
    start_server(listener, senders);
    let mut kinds: Vec<Kind> = Kind::ALL
        .iter()
        .flat_map(|kind| [*kind; REQUESTS])
        .collect();
    fastrand::shuffle(&mut kinds);
    let kinds: Vec<(usize, Kind)> = kinds.into_iter().enumerate().collect();
    let router = stack.router_address();
    let (failed, failures) = mpsc::channel();
    for (client, unanswered) in receivers.into_iter().enumerate() {
        let kinds: Vec<_> = kinds
            .iter()
            .skip(client)
            .step_by(CLIENTS)
            .copied()
            .collect();
        let failed = failed.clone();
        thread::spawn(move || {
            if let Err(error) = run_client(client, router, &kinds, &unanswered) {
                let _ = failed.send(error);
            }
        });
    }
    let log = ports.request_log.as_deref().context("no access log")?;
    let requests = read_requests(log, kinds.len(), failures).await?;

    let mut endings = BTreeMap::<(Kind, Ending), usize>::new();
    for request in requests {
        let (_, kind) = kinds[request.id.parse::<usize>()?];
        let ending = request
            .ending_for(Color::Blue)
            .context("blue is not active")?;
        *endings.entry((kind, ending)).or_default() += 1;
    }
    let expected = Kind::ALL.map(|kind| ((kind, kind.ending()), REQUESTS));
    assert_eq!(endings, BTreeMap::from(expected));
    Ok(())
}
