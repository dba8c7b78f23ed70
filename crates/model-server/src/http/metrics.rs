use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
};

use super::error::ApiError;
use crate::{metrics, state::ServerState};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// `GET /metrics`: every counter, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "observability",
    summary = "Read all metrics",
    responses(
        (status = 200, description = "All metrics in the OpenMetrics text format, which Prometheus reads",
         body = String, content_type = "application/openmetrics-text"),
        super::error::Refusals,
    )
)]
pub(super) async fn metrics(State(state): State<Arc<ServerState>>) -> Result<Response, ApiError> {
    let text = metrics::exposition(state)
        .map_err(|error| ApiError::Internal(format!("metrics cannot be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}
