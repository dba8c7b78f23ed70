use std::{
    collections::HashMap,
    iter,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::{Id, JoinSet},
    time::{self, Interval},
};
use tracing::{debug, warn};

use crate::{
    busy_timer::BusyTimer,
    config::ConnectionLimits,
    metrics::counters::Metrics,
    server::{layers::HttpService, pending_head::PendingHead, stall_timeout::StallTimeout},
};

/// How long to wait after a connection could not be accepted: most often the process has no file
/// descriptor left, and gets one when a connection ends.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long a connection without a request stays open when no new ones are taken: one may be on its
/// way, and its answer asks the client to go.
const CLOSE_DELAY: Duration = Duration::from_millis(200);

/// How many times each connection is looked at in the time that it may be idle. One is closed up to an
/// eighth of that time late.
const SWEEPS_PER_IDLE_TIMEOUT: u32 = 8;

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
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (ending, ended) = watch::channel(());
    let server = ConnectionServer {
        http,
        service,
        idle: limits.idle,
        metrics,
        ended,
    };
    let mut connections = Connections::new(limits.idle);
    let mut close = pin!(close);
    loop {
        // MemoryReservation first: who finds none waits in the operating system's line, and is not lost there.
        let next = async {
            let permit = Arc::clone(&slots).acquire_owned().await.ok();
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = connections.next_event() => continue,
            () = &mut close => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        connections.add(&server, stream, permit);
    }
    drop(ending);
    // The operating system has accepted these in the server's name, and would reset them.
    for stream in accept_backlog(listener) {
        let permit = Arc::clone(&slots).try_acquire_owned().ok();
        connections.add(&server, stream, permit);
    }
    while !connections.tasks.is_empty() {
        connections.next_event().await;
    }
}

/// All connections, each of which is a task.
///
/// Whoever keeps the server waiting is found by looking at all of them now and then: a timer for the head
/// of each request is a good part of what a small request costs.
pub(crate) struct Connections {
    tasks: JoinSet<()>,
    pending_heads: HashMap<Id, Arc<PendingHead>>,
    idle: Duration,
    sweep: Interval,
}

impl Connections {
    fn new(idle: Duration) -> Self {
        let mut sweep =
            time::interval((idle / SWEEPS_PER_IDLE_TIMEOUT).max(Duration::from_millis(1)));
        sweep.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        Self {
            tasks: JoinSet::new(),
            pending_heads: HashMap::new(),
            idle,
            sweep,
        }
    }

    fn add(
        &mut self,
        server: &ConnectionServer,
        stream: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let head = Arc::new(PendingHead {
            awaited: BusyTimer::new(),
            overdue: Notify::new(),
        });
        head.awaited.begin(Instant::now());
        let conversation = server
            .clone()
            .serve_connection(stream, permit, Arc::clone(&head));
        self.pending_heads
            .insert(self.tasks.spawn(conversation).id(), head);
    }

    /// Waits for a connection to end, and has those end that keep the server waiting.
    async fn next_event(&mut self) {
        tokio::select! {
            Some(ended) = self.tasks.join_next_with_id() => {
                let id = ended.map_or_else(|error| error.id(), |(id, ())| id);
                self.pending_heads.remove(&id);
            }
            _ = self.sweep.tick() => {
                let now = Instant::now();
                let overdue = |head: &&Arc<PendingHead>| head.awaited.elapsed(now) >= Some(self.idle);
                for head in self.pending_heads.values().filter(overdue) {
                    head.overdue.notify_one();
                }
            }
        }
    }
}

/// Closes a listener, and returns the connections that waited there.
fn accept_backlog(listener: TcpListener) -> Vec<TcpStream> {
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
pub(crate) struct ConnectionServer {
    http: http1::Builder,
    service: HttpService,
    idle: Duration,
    metrics: Arc<Metrics>,
    /// Changes when no new connections are taken any more.
    ended: watch::Receiver<()>,
}

impl ConnectionServer {
    /// Answers what comes over a connection, until one of both ends it.
    async fn serve_connection(
        mut self,
        stream: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
        head: Arc<PendingHead>,
    ) {
        // Answers are small: holding one back to fill a packet only delays it.
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "cannot set TCP_NODELAY");
        }
        let stream = TokioIo::new(StallTimeout::new(stream, self.idle, Arc::clone(&head)));
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
                    let ended = time::timeout(CLOSE_DELAY, &mut connection).await;
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
            () = head.wait_until_overdue(self.idle) => {
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
