use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{api::error::CommonErrors, phase::Phase, state::ServerState};

/// The served release and its counters.
#[derive(Serialize, ToSchema)]
struct Healthy<'a> {
    /// Always `healthy`.
    status: &'static str,
    model_name: &'a str,
    model_version: &'a str,
    /// SHA-256 of the release's files, in hexadecimal.
    model_digest: &'a str,
    /// `rten` or `onnxruntime`.
    engine: &'static str,
    uptime_seconds: f64,
    /// Prediction requests since the start, valid or not.
    request_count: u64,
    /// Those of them that were answered with status 500 or above.
    error_count: u64,
    /// Errors per request, from 0 to 1.
    error_rate: f64,
    /// Prediction requests in flight.
    in_flight: u64,
    /// Texts that wait in the queue.
    queue_depth: usize,
    time_limits: TimeLimits,
}

/// The time limits of the server, which must fit those of its router.
#[derive(Serialize, ToSchema)]
#[expect(clippy::struct_field_names, reason = "JSON fields carry their unit")]
struct TimeLimits {
    /// How long a client waits for a prediction.
    request_timeout_seconds: f64,
    /// How long a connection may be idle.
    idle_timeout_seconds: f64,
    /// How long new requests are served after a stop signal.
    grace_seconds: f64,
}

/// The result of a probe.
#[derive(Serialize, ToSchema)]
struct ProbeStatus {
    /// The probe's name, such as `ready`, or its opposite.
    status: &'static str,
    /// Why the probe failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `GET /health`: 200 with the served release, or 503 with the reason.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    summary = "The served release and its counters",
    responses(
        (status = 200, description = "Healthy: what is served", body = Healthy),
        (status = 503, description = "Loading, draining, or broken", body = ProbeStatus),
        CommonErrors,
    )
)]
pub(crate) async fn health(State(state): State<Arc<ServerState>>) -> Response {
    let now = Instant::now();
    match (state.unhealthy_reason(now), state.serving.get()) {
        (None, Some(serving)) => {
            let counts = state.metrics.counts();
            let uptime = state.metrics.uptime(now);
            Json(Healthy {
                status: "healthy",
                model_name: &state.model_name,
                model_version: &state.model_version,
                model_digest: &serving.digest,
                engine: state.engine.name(),
                uptime_seconds: milliseconds(uptime.as_secs_f64()),
                request_count: counts.requests,
                error_count: counts.errors,
                error_rate: counts.error_rate(),
                in_flight: counts.in_flight,
                queue_depth: serving.pool.queue.depth(),
                time_limits: TimeLimits {
                    request_timeout_seconds: state.limits.request_timeout.as_secs_f64(),
                    idle_timeout_seconds: state.limits.connections.idle.as_secs_f64(),
                    grace_seconds: state.grace.as_secs_f64(),
                },
            })
            .into_response()
        }
        (reason, _) => no("unhealthy", reason.unwrap_or_else(|| NOT_LOADED.to_owned())),
    }
}

/// `GET /readyz`: whether to send requests here. Same as `/health`.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    summary = "Whether the server is ready",
    responses(
        (status = 200, description = "Ready", body = ProbeStatus),
        (status = 503, description = "Loading, draining, or broken", body = ProbeStatus),
        CommonErrors,
    )
)]
pub(crate) async fn ready(State(state): State<Arc<ServerState>>) -> Response {
    match state.unhealthy_reason(Instant::now()) {
        None => yes("ready"),
        Some(reason) => no("not ready", reason),
    }
}

/// `GET /livez`: whether the process can go on. It fails only if a restart is needed; a server that loads or
/// drains is live.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    summary = "Whether the process is alive",
    responses(
        (status = 200, description = "Live", body = ProbeStatus),
        (status = 503, description = "A restart is needed", body = ProbeStatus),
        CommonErrors,
    )
)]
pub(crate) async fn live(State(state): State<Arc<ServerState>>) -> Response {
    match state.dead_reason(Instant::now()) {
        None => yes("live"),
        Some(reason) => no("not live", reason),
    }
}

/// `GET /startupz`: whether loading has ended.
#[utoipa::path(
    get,
    path = "/startupz",
    tag = "health",
    summary = "Whether the server has started",
    responses(
        (status = 200, description = "Started", body = ProbeStatus),
        (status = 503, description = "Still loading", body = ProbeStatus),
        CommonErrors,
    )
)]
pub(crate) async fn started(State(state): State<Arc<ServerState>>) -> Response {
    match state.phase.get() {
        Phase::Loading => no("starting", "loading the release".to_owned()),
        Phase::Ready | Phase::Draining | Phase::Unfit { .. } => yes("started"),
    }
}

const NOT_LOADED: &str = "no release is loaded";

fn yes(status: &'static str) -> Response {
    Json(ProbeStatus {
        status,
        reason: None,
    })
    .into_response()
}

fn no(status: &'static str, reason: String) -> Response {
    let body = ProbeStatus {
        status,
        reason: Some(reason),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// Seconds with three digits after the point.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
