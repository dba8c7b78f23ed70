//! Serves the page: accepts and bounds connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{Router, body::Body, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::sleep,
};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt as _;

/// How many connections there may be. Further ones wait in the operating system's backlog.
const MAX_CONNECTIONS: usize = 128;
/// How long a connection may be idle, and how long a client may take to send the head of a request.
const MAX_IDLE: Duration = Duration::from_secs(30);
/// How long a client may take to read what was written.
const MAX_STALL: Duration = Duration::from_secs(30);
/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;
/// The pause after a failed `accept`: most often, the process has no file descriptor left.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The address from which a request came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Serves `router` until the future is dropped, which ends all connections.
pub(crate) async fn serve(listener: &TcpListener, router: &Router) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let slot = Arc::clone(&slots).acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        tokio::select! {
            (slot, accepted) = next => match accepted {
                Ok((stream, peer)) => {
                    connections.spawn(serve_connection(stream, peer, router.clone(), slot));
                }
                Err(_) => sleep(ACCEPT_RETRY_DELAY).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection. Its errors are those of a client that went away.
async fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    _slot: Option<OwnedSemaphorePermit>,
) {
    // An event must not wait for the next one.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(MAX_STALL));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request
            .extensions_mut()
            .insert(Peer(peer.ip().to_canonical()));
        router.clone().oneshot(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(MAX_IDLE)
        .max_buf_size(MAX_HEAD);
    let stream = TokioIo::new(Box::pin(stream));
    let _ = http.serve_connection(stream, service).await;
}
