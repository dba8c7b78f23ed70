//! The life of a server: load, test, serve, drain, stop.

#[cfg(test)]
mod tests;

use crate::api_keys::ApiKeys;
use crate::api_keys::KeysError;
use crate::capture::Capture;
use crate::capture::CaptureError;
#[cfg(doc)]
use crate::config::Drain;
use crate::config::Settings;
use crate::phase::Phase;
use crate::release;
use crate::release::LoadError;
use crate::release::Loaded;
use crate::release::load;
use crate::scheduler::inference_pool::InferencePool;
use crate::scheduler::worker::Workers;
use crate::server::layers;
use crate::server::listener;
use crate::server::router;
use crate::server::signals::StopSignals;
use crate::state::ServerState;
use crate::state::Serving;
use crate::telemetry::tracer::Telemetry;
use axum::Router;
use axum::http::HeaderValue;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::task;
use tokio::time;
use tracing::info;
use tracing::warn;

/// Connections that may wait to be accepted. After a switch, all clients connect at once.
const LISTEN_BACKLOG: u32 = 4096;

/// Why a server ended without a stop signal.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The port is in use, or the address is not local.
    #[error("cannot listen on {address}: {source}; set HOST and PORT to a free address")]
    Bind {
        /// The requested address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The operating system refused signals or threads.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The release cannot be served.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The API keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The sample of inputs cannot be written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Traces cannot be sent.
    #[error(
        "cannot send traces: {0}; set OTEL_EXPORTER_OTLP_ENDPOINT to a URL such as http://localhost:4318"
    )]
    Traces(String),
    /// Requests were still in flight at the hard stop, and were cut.
    #[error("requests were still in flight {0:?} after the grace period, and were cut")]
    HardStop(Duration),
}

/// Listens on `address`.
pub fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // A restart does not wait for connections of the previous server in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG)
    };
    listen().map_err(|source| ServeError::Bind { address, source })
}

/// Listens and serves until SIGTERM or SIGINT. A second signal stops at once.
///
/// `wrap` may add layers around the router; pass [`std::convert::identity`] for none.
pub async fn run(
    settings: Settings,
    wrap: impl FnOnce(Router) -> Router,
) -> Result<(), ServeError> {
    let listener = bind(settings.address.into())?;
    let mut signals = StopSignals::listen()?;
    let (stop, stopped) = oneshot::channel();
    let twice = async {
        signals.next().await;
        let _ = stop.send(());
        signals.next().await;
    };
    tokio::select! {
        result = serve(listener, settings, async { let _ = stopped.await; }, wrap) => result,
        () = twice => {
            warn!("second stop signal: stopped at once");
            Ok(())
        }
    }
}

/// Serves on `listener` until `stop` resolves, then drains.
///
/// The port answers at once. While the release is loading, `/health` returns 503. A release that cannot be
/// loaded ends the server with [`ServeError::Load`]. After `stop`, the server is unready at once and still
/// answers new requests for [`Drain::grace`]. Then it accepts no connections, and requests in flight have
/// [`Drain::hard_stop`] to finish.
///
/// Dropping the future stops at once. `wrap` may add layers around the router.
pub async fn serve(
    listener: TcpListener,
    settings: Settings,
    stop: impl Future<Output = ()>,
    wrap: impl FnOnce(Router) -> Router,
) -> Result<(), ServeError> {
    let mut state = ServerState::new(&settings, Instant::now());
    if let Some(path) = &settings.api_keys_file {
        state.keys = Some(ApiKeys::read(path)?);
    }
    state.capture = Capture::start(&settings.capture, &settings.model, &state.metrics)?;
    if let Some(endpoint) = &settings.otlp_endpoint {
        let telemetry = Telemetry::start(endpoint, &settings.model);
        state.telemetry = Some(telemetry.map_err(ServeError::Traces)?);
    }
    let state = Arc::new(state);
    let address = listener.local_addr()?;
    info!(%address, port = address.port(), "listening");

    let (close, closed) = oneshot::channel::<()>();
    let service = layers::normalized(wrap(router::router(Arc::clone(&state))));
    let closed = async {
        let _ = closed.await;
    };
    let mut connections = pin!(listener::serve(
        listener,
        service,
        settings.limits.connections,
        Arc::clone(&state.metrics),
        closed
    ));

    let workers = tokio::select! {
        result = load_and_serve(&state, &settings, stop) => result?,
        // Resolves only after `close`.
        () = &mut connections => return Ok(()),
    };
    info!("grace period over: finishing requests in flight");
    drop(close);
    let finish = async {
        connections.await;
        if let Some(workers) = workers {
            workers.stop().await;
        }
        info!("stopped");
        Ok(())
    };
    let ended = time::timeout(settings.drain.hard_stop, finish).await;
    if let Some(capture) = &state.capture {
        capture.stop().await;
    }
    if let Some(telemetry) = &state.telemetry {
        telemetry.stop().await;
    }
    ended.unwrap_or(Err(ServeError::HardStop(settings.drain.hard_stop)))
}

/// Loads the release, serves until `stop`, and then for the grace period.
///
/// Returns the workers, which may still have work in flight; `None` if the release was not loaded yet.
async fn load_and_serve(
    state: &Arc<ServerState>,
    settings: &Settings,
    stop: impl Future<Output = ()>,
) -> Result<Option<Workers>, ServeError> {
    let mut stop = pin!(stop);
    let began = Instant::now();
    let loading = {
        let settings = settings.clone();
        task::spawn_blocking(move || load(&settings))
    };
    let loaded = tokio::select! {
        loaded = loading => loaded,
        () = &mut stop => {
            state.phase.advance(Phase::Draining);
            info!("stop signal while loading: nothing to drain");
            return Ok(None);
        }
    };
    let loaded = loaded.unwrap_or_else(|error| Err(release::panicked(&settings.model, error)));
    let loaded = loaded.inspect_err(|error| {
        state.phase.advance(Phase::Unfit {
            reason: format!("loading failed: {error}"),
        });
    })?;
    let digest = loaded.digest.clone();
    let (max_batch_texts, parallel_is_faster) =
        (loaded.plan.policy.max_texts, loaded.plan.parallel_is_faster);
    let workers = start_workers(state, settings, loaded)?;
    state.phase.advance(Phase::Ready);
    info!(
        model_name = settings.model.name,
        model_version = settings.model.version,
        model_digest = digest,
        engine = settings.engine.kind.name(),
        threads = settings.engine.threads(),
        workers = settings.engine.workers(),
        max_batch_texts,
        parallel_is_faster,
        load_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "ready"
    );

    stop.await;
    state.phase.advance(Phase::Draining);
    info!(grace = ?settings.drain.grace, "stop signal: unready, still serving new requests");
    time::sleep(settings.drain.grace).await;
    Ok(Some(workers))
}

/// Starts the workers, and opens the queue to the handlers.
fn start_workers(
    state: &Arc<ServerState>,
    settings: &Settings,
    loaded: Loaded,
) -> Result<Workers, ServeError> {
    let pool = Arc::new(InferencePool::new(
        loaded.plan,
        settings.limits.queue_capacity.get(),
        loaded.signature.outputs.len(),
        Arc::clone(&state.metrics),
    ));
    let on_failure = {
        let state = Arc::clone(state);
        move |reason: String| {
            tracing::error!(reason, "unhealthy");
            state.phase.advance(Phase::Unfit { reason });
        }
    };
    let (workers, watchdog) = Workers::start(Arc::clone(&pool), loaded.engines, on_failure)?;
    let header = |text: &str| HeaderValue::from_bytes(text.as_bytes()).ok();
    let release_headers = header(&state.model_version).zip(header(&loaded.digest));
    state.serving.get_or_init(|| Serving {
        release_headers: release_headers.map(Into::into),
        digest: loaded.digest,
        signature: loaded.signature,
        pool,
        watchdog,
    });
    Ok(workers)
}
