//! The HTTP face: every route and every layer on this screen, one file per noun.

mod ask;
mod auth;
mod body;
mod docs;
mod drain;
mod error;
mod health;
mod metrics;
mod observe;
mod oip;
mod predict;
mod request_id;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::state::ServerState;

/// The paths that most people ask for, for whoever asks for another.
const PATHS: &str = "GET /health, POST /predict, GET /v2, and what GET /docs tells";

/// The server's routes, with their layers. A layer wraps what stands above it.
pub(crate) fn router(state: Arc<ServerState>) -> Router {
    let document = docs::Document::default();
    let (router, openapi) = documented(&state, &document).split_for_parts();
    docs::write_down(&document, &openapi);
    let mut router = router
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method);
    if state.keys.is_some() {
        let layer = middleware::from_fn_with_state(Arc::clone(&state), auth::require_key);
        router = router.layer(layer);
    }
    router
        .layer(middleware::from_fn_with_state(
            Arc::clone(&state),
            observe::observe,
        ))
        .with_state(state)
}

/// All routes, with what the document says of them.
fn documented(
    state: &Arc<ServerState>,
    document: &docs::Document,
) -> OpenApiRouter<Arc<ServerState>> {
    let documentation = OpenApiRouter::new()
        .routes(routes!(docs::openapi))
        .routes(routes!(docs::page))
        .layer(Extension(Arc::clone(document)));
    let others = OpenApiRouter::new()
        .merge(oip::routes())
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::started))
        .routes(routes!(metrics::metrics))
        .merge(documentation)
        .layer(middleware::from_fn_with_state(
            Arc::clone(state),
            body::ignore,
        ));
    OpenApiRouter::with_openapi(docs::description())
        .routes(routes!(predict::predict))
        .merge(oip::inference_routes())
        .merge(others)
}
