use std::sync::Arc;

use axum::{
    Extension,
    http::{HeaderName, HeaderValue, header},
    response::{Html, IntoResponse},
};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

use super::error::Refusals;

/// A page of our own: it asks for nothing from anywhere else.
const PAGE: &str = include_str!("docs.html");

/// What the page may load: itself, and what it asks this server for.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
);

/// The document without its paths, which the routes add.
pub(super) fn description() -> OpenApi {
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("model-server")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "Serves one release of a model: its own short interface, and the Open Inference Protocol.",
                ))
                .build(),
        )
        .build()
}

/// Gives the finished document to its handler, written down once.
pub(super) fn share(openapi: &OpenApi) -> Extension<Arc<str>> {
    // Its types hold nothing that JSON cannot express.
    Extension(openapi.to_json().unwrap_or_default().into())
}

/// `GET /openapi.json`
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "documentation",
    summary = "This document",
    responses((status = 200, description = "OpenAPI 3.1", body = Object), Refusals)
)]
pub(super) async fn openapi(Extension(document): Extension<Arc<str>>) -> impl IntoResponse {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], document.to_string())
}

/// `GET /docs`
#[utoipa::path(
    get,
    path = "/docs",
    tag = "documentation",
    summary = "This document as a page",
    responses((status = 200, description = "HTML", body = String, content_type = "text/html"), Refusals)
)]
pub(super) async fn page() -> impl IntoResponse {
    let headers: [(HeaderName, HeaderValue); 1] = [(header::CONTENT_SECURITY_POLICY, POLICY)];
    (headers, Html(PAGE))
}
