use std::sync::Arc;

use axum::{extract::State, http::header, response::IntoResponse};
use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

use crate::{api::error::ApiError, metrics::exposition::exposition, state::ServerState};

/// `GET /metrics`: all metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "observability",
    summary = "Read all metrics",
    responses(
        (status = 200, description = "All metrics in Prometheus' text format, version 0.0.4",
         content((String = "text/plain"))),
        super::error::CommonErrors,
    )
)]
pub(crate) async fn metrics(
    State(state): State<Arc<ServerState>>,
) -> Result<impl IntoResponse, ApiError> {
    let text = exposition(&state)
        .map_err(|error| ApiError::Internal(format!("metrics cannot be written: {error}")))?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text))
}
