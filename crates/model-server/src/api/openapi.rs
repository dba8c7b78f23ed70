use std::sync::{Arc, OnceLock};

use axum::{
    Extension,
    http::{HeaderName, HeaderValue, header},
    response::{Html, IntoResponse},
};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

use crate::api::error::CommonErrors;

/// The page loads nothing from other hosts.
const PAGE: &str = include_str!("docs.html");

/// The page may load only itself and request only this server.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
);

/// The document without its paths, which the routes add.
pub(crate) fn description() -> OpenApi {
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("model-server")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Serves one release of a model, by its own interface and by the Open Inference Protocol.",
                ))
                .build(),
        )
        .build()
}

/// The finished document as JSON.
pub(crate) type Document = Arc<OnceLock<String>>;

/// Stores the finished document as JSON.
pub(crate) fn write_down(document: &Document, openapi: &OpenApi) {
    // Serialization cannot fail, because all values have a JSON form.
    document.get_or_init(|| openapi.to_json().unwrap_or_default());
}

/// `GET /openapi.json`
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "documentation",
    summary = "This document",
    responses((status = 200, description = "OpenAPI 3.1", body = Object), CommonErrors)
)]
pub(crate) async fn openapi(Extension(document): Extension<Document>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/json");
    let document = document.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, kind)], document)
}

/// `GET /docs`
#[utoipa::path(
    get,
    path = "/docs",
    tag = "documentation",
    summary = "This document as a page",
    responses((status = 200, description = "HTML", body = String, content_type = "text/html"), CommonErrors)
)]
pub(crate) async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 1] = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, Html(PAGE))
}
