use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use crate::{phase::Phase, state::ServerState};

#[derive(Serialize)]
struct Healthy<'a> {
    status: &'static str,
    model_name: &'a str,
    model_version: &'a str,
    model_digest: &'a str,
    engine: &'static str,
    uptime_seconds: f64,
    request_count: u64,
    error_count: u64,
    error_rate: f64,
    in_flight: u64,
    queue_depth: usize,
}

#[derive(Serialize)]
struct Sign {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// `GET /health`: 200 with what is served and how it fares, or 503 with the reason.
pub(super) async fn health(State(state): State<Arc<ServerState>>) -> Response {
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
                queue_depth: serving.shop.queue.depth(),
            })
            .into_response()
        }
        (reason, _) => no("unhealthy", reason.unwrap_or_else(|| NOT_LOADED.to_owned())),
    }
}

/// `GET /readyz`: whether to send requests here. The same judgement as `/health`.
pub(super) async fn ready(State(state): State<Arc<ServerState>>) -> Response {
    match state.unhealthy_reason(Instant::now()) {
        None => yes("ready"),
        Some(reason) => no("not ready", reason),
    }
}

/// `GET /livez`: whether to let this process go on. It is no while nothing but a new process could
/// help; loading and draining are life.
pub(super) async fn live(State(state): State<Arc<ServerState>>) -> Response {
    match state.dead_reason(Instant::now()) {
        None => yes("live"),
        Some(reason) => no("not live", reason),
    }
}

/// `GET /startupz`: whether the start is over, whatever came after it.
pub(super) async fn started(State(state): State<Arc<ServerState>>) -> Response {
    match state.phase.get() {
        Phase::Loading => no("starting", "loading the release".to_owned()),
        Phase::Ready | Phase::Draining | Phase::Unfit { .. } => yes("started"),
    }
}

const NOT_LOADED: &str = "no release is loaded";

fn yes(status: &'static str) -> Response {
    Json(Sign {
        status,
        reason: None,
    })
    .into_response()
}

fn no(status: &'static str, reason: String) -> Response {
    let body = Sign {
        status,
        reason: Some(reason),
    };
    (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
}

/// Seconds without the digits that nobody reads.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
