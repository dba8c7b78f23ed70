use std::{iter, pin::pin, sync::Arc, time::Duration};

use axum::http::{Request, Version};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time,
};
use tokio_io_timeout::TimeoutWriter;
use tracing::{debug, warn};

use crate::{
    config::ConnectionLimits,
    metrics::counters::Metrics,
    server::{half_close::WatchedStream, layers::HttpService},
};

/// Delay after a failed `accept`. Most often the process has no file descriptor left, and gets one when a
/// connection ends.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// How long an idle connection stays open when the server stops accepting. A request may already be in flight;
/// its response carries `Connection: close`.
const CLOSE_DELAY: Duration = Duration::from_millis(200);

/// Serves connections until `close` resolves, then lets requests in flight finish. Dropping the future cuts
/// them.
///
/// A connection is closed if the head of its next request does not arrive within [`ConnectionLimits::idle`], or
/// if its client reads nothing of a response for that long.
pub(crate) async fn serve(
    listener: TcpListener,
    service: HttpService,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    close: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        // Otherwise hyper drops the request of a client that only closed its sending side.
        .half_close(true)
        .max_buf_size(limits.header_bytes);
    let slots = Arc::new(Semaphore::new(limits.connections));
    let server = ConnectionServer {
        http,
        service,
        idle: limits.idle,
        metrics,
    };
    let shutdown = GracefulShutdown::new();
    let serve_connection = |stream, permit| {
        let server = server.clone();
        server.serve_connection(stream, permit, shutdown.watcher())
    };
    // Dropping it cuts the connections.
    let mut connections = JoinSet::new();
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
            Some(_) = connections.join_next() => continue,
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
        connections.spawn(serve_connection(stream, permit));
    }
    // The kernel has accepted these connections, and would reset them.
    for stream in accept_backlog(listener) {
        let permit = Arc::clone(&slots).try_acquire_owned().ok();
        connections.spawn(serve_connection(stream, permit));
    }
    let all_ended = async { while connections.join_next().await.is_some() {} };
    let _ = time::timeout(CLOSE_DELAY, all_ended).await;
    shutdown.shutdown().await;
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

/// The client left, so its request is dropped.
#[derive(Debug, Error)]
#[error("the client left before the response")]
struct ClientLeft;

/// What every connection needs.
#[derive(Clone)]
struct ConnectionServer {
    http: http1::Builder,
    service: HttpService,
    idle: Duration,
    metrics: Arc<Metrics>,
}

impl ConnectionServer {
    /// Serves a connection until either side closes it.
    async fn serve_connection(
        self,
        stream: TcpStream,
        permit: Option<OwnedSemaphorePermit>,
        shutdown: Watcher,
    ) {
        // Responses are small, and Nagle's algorithm would delay them.
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "cannot set TCP_NODELAY");
        }
        let watched = WatchedStream::new(stream);
        let mut stream = TimeoutWriter::new(watched.clone());
        stream.set_timeout(Some(self.idle));
        let stream = TokioIo::new(Box::pin(stream));
        let service = TowerToHyperService::new(self.service);
        let service = service_fn(|request: Request<Incoming>| {
            // A client of HTTP/1.0 does not know interim responses.
            let may_probe = request.version() >= Version::HTTP_11;
            let response = service.call(request);
            let watched = watched.clone();
            async move {
                tokio::select! {
                    biased;
                    response = response => response.map_err(|never| match never {}),
                    () = watched.client_left(may_probe) => Err(ClientLeft),
                }
            }
        });
        let connection = self.http.serve_connection(stream, service);
        // A client that disconnects is not an error of the server.
        if let Err(error) = shutdown.watch(connection).await {
            // Such a request never reaches the router, where all others are counted.
            if error.is_parse() {
                self.metrics.count_error("unreadable_head");
            }
            debug!(%error, "a connection closed early");
        }
        drop(permit);
    }
}
