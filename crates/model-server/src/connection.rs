//! Connections: how many, how long, and how they end.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    iter,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::{Id, JoinSet},
    time::{self, Interval, Sleep},
};
use tracing::{debug, warn};

use crate::{http::HttpService, metrics::Metrics, pulse::Pulse, settings::ConnectionLimits};

/// How long to wait after a connection could not be accepted: most often the process has no file
/// descriptor left, and gets one when a connection ends.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// How long a connection without a request stays open when no new ones are taken: one may be on its
/// way, and its answer asks the client to go.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// How many times each connection is looked at in the time that it may be idle. One is closed up to an
/// eighth of that time late.
const LOOKS: u32 = 8;

/// Serves connections until `close` resolves, then lets those in flight finish. Dropping the future
/// cuts them.
///
/// A connection is closed when the head of a request does not come within [`ConnectionLimits::idle`],
/// which is also how long it may be idle, or up to an eighth of that later; and when its client takes
/// nothing of an answer within that limit.
pub(crate) async fn serve(
    listener: TcpListener,
    service: HttpService,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    close: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.header_read_timeout(None)
        .max_buf_size(limits.header_bytes);
    let room = Arc::new(Semaphore::new(limits.connections));
    let (ending, ended) = watch::channel(());
    let face = Face {
        http,
        service,
        idle: limits.idle,
        metrics,
        ended,
    };
    let mut connections = Connections::new(limits.idle);
    let mut close = pin!(close);
    loop {
        // Room first: who finds none waits in the operating system's line, and is not lost there.
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = connections.watch() => continue,
            () = &mut close => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                time::sleep(AFTER_REFUSAL).await;
                continue;
            }
        };
        connections.add(&face, stream, permit);
    }
    drop(ending);
    // The operating system has accepted these in the server's name, and would reset them.
    for stream in waiting_at(listener) {
        let permit = Arc::clone(&room).try_acquire_owned().ok();
        connections.add(&face, stream, permit);
    }
    while !connections.tasks.is_empty() {
        connections.watch().await;
    }
}

/// All connections, each of which is a task.
///
/// Whoever keeps the server waiting is found by looking at all of them now and then: a timer for the head
/// of each request is a good part of what a small request costs.
struct Connections {
    tasks: JoinSet<()>,
    heads: HashMap<Id, Arc<Head>>,
    idle: Duration,
    looks: Interval,
}

/// The head of the next request of a connection.
struct Head {
    /// Since when the client is to send it.
    awaited: Pulse,
    /// Wakes the connection to see that it is overdue.
    overdue: Notify,
}

impl Head {
    /// Waits until the client has been waited for as long as a connection may be idle.
    async fn is_given_up(&self, idle: Duration) {
        loop {
            self.overdue.notified().await;
            // A request may have come between the look and this.
            if self.awaited.taken(Instant::now()) >= Some(idle) {
                return;
            }
        }
    }
}

impl Connections {
    fn new(idle: Duration) -> Self {
        let mut looks = time::interval((idle / LOOKS).max(Duration::from_millis(1)));
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        Self {
            tasks: JoinSet::new(),
            heads: HashMap::new(),
            idle,
            looks,
        }
    }

    fn add(&mut self, face: &Face, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
        let head = Arc::new(Head {
            awaited: Pulse::new(),
            overdue: Notify::new(),
        });
        head.awaited.begin(Instant::now());
        let conversation = face.clone().converse(stream, permit, Arc::clone(&head));
        self.heads.insert(self.tasks.spawn(conversation).id(), head);
    }

    /// Waits for a connection to end, and has those end that keep the server waiting.
    async fn watch(&mut self) {
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                self.heads.remove(&id);
            }
            _ = self.looks.tick() => {
                let now = Instant::now();
                let overdue = |head: &&Arc<Head>| head.awaited.taken(now) >= Some(self.idle);
                for head in self.heads.values().filter(overdue) {
                    head.overdue.notify_one();
                }
            }
        }
    }
}

/// Closes a listener, and returns the connections that waited there.
fn waiting_at(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    // It never waits: the first error says that nobody is left.
    let accepted = iter::from_fn(|| listener.accept().ok()).collect::<Vec<_>>();
    drop(listener);
    let streams = accepted.into_iter().filter_map(|(stream, _)| {
        stream.set_nonblocking(true).ok()?;
        TcpStream::from_std(stream).ok()
    });
    streams.collect()
}

/// What every connection needs.
#[derive(Clone)]
struct Face {
    http: http1::Builder,
    service: HttpService,
    idle: Duration,
    metrics: Arc<Metrics>,
    /// Changes when no new connections are taken any more.
    ended: watch::Receiver<()>,
}

impl Face {
    /// Answers what comes over a connection, until one of both ends it.
    async fn converse(
        mut self,
        stream: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
        head: Arc<Head>,
    ) {
        // Answers are small: holding one back to fill a packet only delays it.
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "cannot set TCP_NODELAY");
        }
        let stream = TokioIo::new(Bounded::new(stream, self.idle, Arc::clone(&head)));
        let service = TowerToHyperService::new(self.service);
        let service = service_fn(|request| {
            head.awaited.end();
            let answering = service.call(request);
            let head = Arc::clone(&head);
            async move {
                let answer = answering.await;
                head.awaited.begin(Instant::now());
                answer
            }
        });
        let mut connection = pin!(self.http.serve_connection(stream, service));
        let conversation = async {
            tokio::select! {
                result = &mut connection => result,
                _ = self.ended.changed() => {
                    let ended = time::timeout(LAST_WORDS, &mut connection).await;
                    if let Ok(result) = ended {
                        result
                    } else {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            }
        };
        let result = tokio::select! {
            // First of all what has come: a request that waits to be read is not given up.
            biased;
            result = conversation => result,
            () = head.is_given_up(self.idle) => {
                debug!("a connection was idle for too long, or the head of its request did not come");
                return;
            }
        };
        // Clients leave in many ways; none of them is a fault of the server.
        if let Err(error) = result {
            // Such a request never gets as far as the router, where all others are counted.
            if error.is_parse() {
                self.metrics.count_error("unreadable_head");
            }
            debug!(%error, "a connection ended early");
        }
        drop(permit);
    }
}

/// A stream whose other end has to go on taking what is written.
struct Bounded {
    stream: TcpStream,
    limit: Duration,
    /// Since the other end takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Not waited for while an answer is still being taken.
    head: Arc<Head>,
}

impl Bounded {
    fn new(stream: TcpStream, limit: Duration, head: Arc<Head>) -> Self {
        Self {
            stream,
            limit,
            stalled: None,
            head,
        }
    }

    /// Passes on the result of a write, unless it has been pending for too long.
    fn bound<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            let now = Instant::now();
            if self.head.awaited.taken(now).is_some() {
                self.head.awaited.begin(now);
            }
            return written;
        }
        let limit = self.limit;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(time::sleep(limit)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, buffer);
        self.bound(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.bound(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
