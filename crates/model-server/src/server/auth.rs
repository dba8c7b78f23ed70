use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::{
    api::{body, error::ApiError},
    state::ServerState,
};

/// The alternative to `Authorization`.
pub(crate) const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Routers, orchestrators, and health checks have no keys.
const OPEN: [&str; 6] = [
    "/health",
    "/livez",
    "/readyz",
    "/startupz",
    "/v2/health/live",
    "/v2/health/ready",
];

/// Refuses requests without a valid API key, if keys are set.
pub(crate) async fn require_key(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(keys) = &state.keys else {
        return next.run(request).await;
    };
    let is_open = OPEN.contains(&request.uri().path());
    if is_open || keys_of(request.headers()).any(|key| keys.contains(key)) {
        next.run(request).await
    } else {
        let refused = body::refuse(&state, request, ApiError::NoKey).await;
        refused.into_response()
    }
}

/// Returns all keys of a request. `Authorization` may have credentials for another layer, such as a proxy, so
/// one valid key is enough.
fn keys_of(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let authorizations = headers.get_all(header::AUTHORIZATION).into_iter();
    let bearers = authorizations.filter_map(|value| {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
    });
    let others = headers.get_all(X_API_KEY).into_iter();
    let others = others.map(HeaderValue::as_bytes);
    bearers.chain(others).map(<[u8]>::trim_ascii)
}
