#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use axum::{Extension, Router, middleware};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    api::{
        body, fallback, health, metrics,
        oip::{handlers, metadata, model_path::with_version},
        openapi, predict,
    },
    server::layers,
    state::ServerState,
};

/// Returns the router with all routes and layers.
pub(crate) fn router(state: Arc<ServerState>) -> Router {
    let document = openapi::Document::default();
    let (router, openapi) = documented(&state, &document).split_for_parts();
    openapi::write_down(&document, &openapi);
    let router = router
        .fallback(fallback::unknown_path)
        .method_not_allowed_fallback(fallback::wrong_method);
    layers::around(router, &state).with_state(state)
}

/// All routes and their OpenAPI descriptions.
pub(crate) fn documented(
    state: &Arc<ServerState>,
    document: &openapi::Document,
) -> OpenApiRouter<Arc<ServerState>> {
    let documentation = OpenApiRouter::new()
        .routes(routes!(openapi::openapi))
        .routes(routes!(openapi::page))
        .layer(Extension(Arc::clone(document)));
    let texts = OpenApiRouter::new()
        .routes(routes!(metrics::metrics))
        .merge(documentation)
        .layer(layers::compression());
    let others = OpenApiRouter::new()
        .routes(routes!(metadata::server))
        .routes(routes!(metadata::live))
        .routes(routes!(metadata::ready))
        .routes(with_version(routes!(metadata::model)))
        .routes(with_version(routes!(metadata::model_ready)))
        .routes(routes!(health::health))
        .routes(routes!(health::live))
        .routes(routes!(health::ready))
        .routes(routes!(health::started))
        .merge(texts)
        .layer(middleware::from_fn_with_state(
            Arc::clone(state),
            body::discard_unread,
        ));
    OpenApiRouter::with_openapi(openapi::description())
        .routes(routes!(predict::predict))
        .routes(with_version(routes!(handlers::infer)))
        .merge(others)
}
