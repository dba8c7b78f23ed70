use std::{sync::Arc, time::Instant};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use serde::Serialize;

use crate::state::ServerState;

#[derive(Serialize)]
struct Healthy<'a> {
    status: &'static str,
    model_name: &'a str,
    model_version: &'a str,
    model_digest: &'a str,
    uptime_seconds: f64,
    request_count: u64,
    error_count: u64,
    error_rate: f64,
}

#[derive(Serialize)]
struct Unhealthy {
    status: &'static str,
    reason: String,
}

/// `GET /health`: 200 with what is served and how it fares, or 503 with the reason.
pub(super) async fn health(State(state): State<Arc<ServerState>>) -> Response {
    match (state.phase.get().unhealthy_reason(), state.serving.get()) {
        (None, Some(serving)) => {
            let counts = state.metrics.counts();
            let uptime = state.metrics.uptime(Instant::now());
            Json(Healthy {
                status: "healthy",
                model_name: &state.model_name,
                model_version: &state.model_version,
                model_digest: &serving.digest,
                uptime_seconds: milliseconds(uptime.as_secs_f64()),
                request_count: counts.requests,
                error_count: counts.errors,
                error_rate: counts.error_rate(),
            })
            .into_response()
        }
        (reason, _) => {
            let body = Unhealthy {
                status: "unhealthy",
                reason: reason.unwrap_or_else(|| "no release is loaded".to_owned()),
            };
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// Seconds without the digits that nobody reads.
fn milliseconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}
