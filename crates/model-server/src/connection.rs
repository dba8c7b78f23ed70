//! Connections: how many, how long, and how they end.

use std::{
    io::{self, IoSlice},
    iter,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{self, Sleep},
};
use tracing::{debug, warn};

use crate::{metrics::Metrics, settings::ConnectionLimits};

/// How long to wait after a connection could not be accepted: most often the process has no file
/// descriptor left, and gets one when a connection ends.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

/// How long a connection without a request stays open when no new ones are taken: one may be on its
/// way, and its answer asks the client to go.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Serves connections until `close` resolves, then lets those in flight finish. Dropping the future
/// cuts them.
///
/// A connection is closed when the head of a request does not come within [`ConnectionLimits::idle`],
/// which is also how long it may be idle, and when its client takes nothing of an answer for as long.
pub(crate) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    metrics: Arc<Metrics>,
    close: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_buf_size(limits.header_bytes);
    let room = Arc::new(Semaphore::new(limits.connections));
    let (ending, ended) = watch::channel(());
    let face = Face {
        http,
        router,
        idle: limits.idle,
        metrics,
        ended,
    };
    let mut connections = JoinSet::new();
    let mut close = pin!(close);
    loop {
        // Room first: who finds none waits in the operating system's line, and is not lost there.
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await.ok();
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
                time::sleep(AFTER_REFUSAL).await;
                continue;
            }
        };
        connections.spawn(face.clone().converse(stream, permit));
    }
    drop(ending);
    // The operating system has accepted these in the server's name, and would reset them.
    for stream in waiting_at(listener) {
        let permit = Arc::clone(&room).try_acquire_owned().ok();
        connections.spawn(face.clone().converse(stream, permit));
    }
    while connections.join_next().await.is_some() {}
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
    router: Router,
    idle: Duration,
    metrics: Arc<Metrics>,
    /// Changes when no new connections are taken any more.
    ended: watch::Receiver<()>,
}

impl Face {
    /// Answers what comes over a connection, until one of both ends it.
    async fn converse(mut self, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
        // Answers are small: holding one back to fill a packet only delays it.
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "cannot set TCP_NODELAY");
        }
        let service = TowerToHyperService::new(self.router);
        let stream = TokioIo::new(Bounded::new(stream, self.idle));
        let mut connection = pin!(self.http.serve_connection(stream, service));
        let result = tokio::select! {
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
}

impl Bounded {
    fn new(stream: TcpStream, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            stalled: None,
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
