use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse as _, Response},
};

use crate::{
    api::error::ApiError,
    metrics::exposition::{Format, exposition},
    state::ServerState,
};

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// `GET /metrics`: all metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "observability",
    summary = "Read all metrics",
    responses(
        (status = 200, description = "All metrics in Prometheus' text format, or in the OpenMetrics format if `Accept` prefers it",
         content((String = "text/plain"), (String = "application/openmetrics-text"))),
        super::error::CommonErrors,
    )
)]
pub(crate) async fn metrics(
    State(state): State<Arc<ServerState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (format, kind) = if prefers_open_metrics(&headers) {
        (Format::OpenMetrics, OPEN_METRICS)
    } else {
        (Format::Prometheus, PROMETHEUS)
    };
    let text = exposition(state, format)
        .map_err(|error| ApiError::Internal(format!("metrics cannot be written: {error}")))?;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    Ok((headers, text).into_response())
}

/// Whether `Accept` names `OpenMetrics` with at least the weight of plain text.
fn prefers_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open_metrics, mut plain) = (0.0, 0.0);
    for value in headers.get_all(header::ACCEPT) {
        for range in value.to_str().unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let weight: f32 = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
            if kind.eq_ignore_ascii_case("application/openmetrics-text") {
                open_metrics = weight.max(open_metrics);
            } else if kind.eq_ignore_ascii_case("text/plain") {
                plain = weight.max(plain);
            }
        }
    }
    open_metrics > 0.0 && open_metrics >= plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefers(accept: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        prefers_open_metrics(&headers)
    }

    #[test]
    fn open_metrics_is_sent_only_if_preferred() {
        assert!(!prefers_open_metrics(&HeaderMap::new()));
        for accept in [
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;version=1.0.0;q=0.4, text/plain;version=0.0.4;q=0.6",
        ] {
            assert!(!prefers(accept), "{accept}");
        }
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.3",
        ] {
            assert!(prefers(accept), "{accept}");
        }
    }
}
