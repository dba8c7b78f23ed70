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

/// What is served, and how it fares.
#[derive(Serialize, ToSchema)]
struct Healthy<'a> {
    /// Always `healthy`.
    status: &'static str,
    model_name: &'a str,
    model_version: &'a str,
    /// SHA-256 over the release's files, in hexadecimal.
    model_digest: &'a str,
    /// `rten` or `onnxruntime`.
    engine: &'static str,
    uptime_seconds: f64,
    /// Requests for predictions since the start, good or bad.
    request_count: u64,
    /// Those of them that were answered with a status of 500 or above.
    error_count: u64,
    /// Errors per request, from 0 to 1.
    error_rate: f64,
    /// Requests for predictions that are being answered now.
    in_flight: u64,
    /// Texts that wait for their turn.
    queue_depth: usize,
}

/// A sign of life, or of its absence.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProbeStatus {
    /// What was asked for, such as `ready`, or its opposite.
    status: &'static str,
    /// Why it is the opposite.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `GET /health`: 200 with what is served and how it fares, or 503 with the reason.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    summary = "What is served, and how it fares",
    responses(
        (status = 200, description = "Healthy: what is served", body = Healthy),
        (status = 503, description = "Loading, draining or broken", body = ProbeStatus),
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
            })
            .into_response()
        }
        (reason, _) => no("unhealthy", reason.unwrap_or_else(|| NOT_LOADED.to_owned())),
    }
}

/// `GET /readyz`: whether to send requests here. The same judgment as `/health`.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    summary = "Whether to send requests here",
    responses(
        (status = 200, description = "Ready", body = ProbeStatus),
        (status = 503, description = "Loading, draining or broken", body = ProbeStatus),
        CommonErrors,
    )
)]
pub(crate) async fn ready(State(state): State<Arc<ServerState>>) -> Response {
    match state.unhealthy_reason(Instant::now()) {
        None => yes("ready"),
        Some(reason) => no("not ready", reason),
    }
}

/// `GET /livez`: whether to let this process go on. It is no while nothing but a new process could
/// help; loading and draining are life.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "health",
    summary = "Whether to let this process go on",
    responses(
        (status = 200, description = "It lives", body = ProbeStatus),
        (status = 503, description = "Only a new process could help", body = ProbeStatus),
        CommonErrors,
    )
)]
pub(crate) async fn live(State(state): State<Arc<ServerState>>) -> Response {
    match state.dead_reason(Instant::now()) {
        None => yes("live"),
        Some(reason) => no("not live", reason),
    }
}

/// `GET /startupz`: whether the start is over, whatever came after it.
#[utoipa::path(
    get,
    path = "/startupz",
    tag = "health",
    summary = "Whether the start is over",
    responses(
        (status = 200, description = "It is", body = ProbeStatus),
        (status = 503, description = "The release is still being loaded", body = ProbeStatus),
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

/// Seconds without the digits that nobody reads.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
