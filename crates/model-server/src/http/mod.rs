//! The HTTP face: every route on this screen, every layer in `layers`, one file per noun.

mod ask;
mod auth;
mod body;
mod client_left;
mod decompress;
mod docs;
mod drain;
mod error;
mod health;
mod layers;
mod metrics;
mod observe;
mod oip;
mod predict;
mod request_id;
mod request_line;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use self::layers::{HttpService, normalized};
use crate::state::ServerState;

/// The paths that most people ask for, for whoever asks for another.
const PATHS: &str = "GET /health, POST /predict, GET /v2, and what GET /docs tells";

/// The server's routes, with their layers.
pub(crate) fn router(state: Arc<ServerState>) -> Router {
    let document = docs::Document::default();
    let (router, openapi) = documented(&state, &document).split_for_parts();
    docs::write_down(&document, &openapi);
    let router = router
        .fallback(error::unknown_path)
        .method_not_allowed_fallback(error::wrong_method);
    layers::around(router, &state).with_state(state)
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
    let texts = OpenApiRouter::new()
        .routes(routes!(metrics::metrics))
        .merge(documentation)
        .layer(layers::compression());
    let others = OpenApiRouter::new()
        .merge(oip::routes())
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::started))
        .merge(texts)
        .layer(middleware::from_fn_with_state(
            Arc::clone(state),
            body::ignore,
        ));
    OpenApiRouter::with_openapi(docs::description())
        .routes(routes!(predict::predict))
        .merge(oip::inference_routes())
        .merge(others)
}
