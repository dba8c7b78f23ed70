//! The HTTP face: every route and every layer on this screen, one file per noun.

mod ask;
mod body;
mod drain;
mod error;
mod health;
mod metrics;
mod observe;
mod predict;
mod request_id;

use std::sync::Arc;

use axum::{
    Router, middleware,
    routing::{get, post},
};
use tower_http::catch_panic::CatchPanicLayer;

use crate::state::ServerState;

/// Every path that the server knows, for whoever asks for another.
const PATHS: &str = "GET /health and POST /predict";

/// The server's routes, with their layers. A layer wraps what stands above it.
pub(crate) fn router(state: Arc<ServerState>) -> Router {
    let shared = || Arc::clone(&state);
    Router::new()
        .route("/health", get(health::health))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/startupz", get(health::started))
        .route("/metrics", get(metrics::metrics))
        .route(
            "/predict",
            post(predict::predict).layer(middleware::from_fn_with_state(shared(), observe::count)),
        )
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(shared(), drain::let_go))
        .layer(middleware::from_fn_with_state(shared(), observe::observe))
        .with_state(state)
}
