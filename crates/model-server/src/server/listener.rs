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

/// Delay after a failed `accept`. Most often the process has no file descriptor left, and gets one when a
/// connection ends.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long an idle connection stays open when the server stops accepting. A request may already be in flight;
/// its response carries `Connection: close`.
const CLOSE_DELAY: Duration = Duration::from_millis(200);

/// How often each connection is checked within the idle timeout. An idle connection closes up to an eighth of
/// the timeout late.
const SWEEPS_PER_IDLE_TIMEOUT: u32 = 8;

/// Serves connections until `close` resolves, then lets requests in flight finish. Dropping the future cuts
/// them.
///
/// A connection is closed if the head of its next request does not arrive within [`ConnectionLimits::idle`] (or
/// up to an eighth later), or if its client reads nothing of a response for that long.
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
        // Takes a permit before it accepts: a connection that must wait stays in the operating system's
        // backlog.
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
    // The kernel has accepted these connections, and would reset them.
    for stream in accept_backlog(listener) {
        let permit = Arc::clone(&slots).try_acquire_owned().ok();
        connections.add(&server, stream, permit);
    }
    while !connections.tasks.is_empty() {
        connections.next_event().await;
    }
}

/// All connections; each is a task.
///
/// Overdue connections are found by periodic sweeps, because a timer for each request head is a considerable
/// part of the cost of a small request.
struct Connections {
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

    /// Waits for a connection to end or for the next sweep, which wakes overdue connections.
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

/// Closes a listener, and returns the connections in its backlog.
fn accept_backlog(listener: TcpListener) -> Vec<TcpStream> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    // The listener is non-blocking: the first error means that the backlog is empty.
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
struct ConnectionServer {
    http: http1::Builder,
    service: HttpService,
    idle: Duration,
    metrics: Arc<Metrics>,
    /// Changes when the server stops accepting connections.
    ended: watch::Receiver<()>,
}

impl ConnectionServer {
    /// Serves a connection until either side closes it.
    async fn serve_connection(
        mut self,
        stream: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
        head: Arc<PendingHead>,
    ) {
        // Responses are small, and Nagle's algorithm would delay them.
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
            // Data that has arrived comes first, so that a readable request is not dropped.
            biased;
            result = conversation => result,
            () = head.wait_until_overdue(self.idle) => {
                debug!("closed a connection that was idle, or whose request head did not arrive in time");
                return;
            }
        };
        // A client that disconnects is not an error of the server.
        if let Err(error) = result {
            // Such a request never reaches the router, where all others are counted.
            if error.is_parse() {
                self.metrics.count_error("unreadable_head");
            }
            debug!(%error, "a connection closed early");
        }
        drop(permit);
    }
}
