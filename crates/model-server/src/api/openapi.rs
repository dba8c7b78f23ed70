use std::{
    slice,
    sync::{Arc, OnceLock},
};

use axum::{
    Extension,
    http::{HeaderName, HeaderValue, header},
    response::{Html, IntoResponse},
};
use serde_json::{Map, Value, json};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};

use crate::api::error::CommonErrors;

/// The page loads nothing from other hosts.
const PAGE: &str = include_str!("docs.html");

/// The page may load only itself and request only this server.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
);

/// Where references of the document find schemas.
const SCHEMAS: &str = "#/components/schemas/";

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
    document.get_or_init(|| finished(openapi).to_string());
}

/// Returns the document with what all operations share.
pub(crate) fn finished(openapi: &OpenApi) -> Value {
    // Serialization cannot fail, because all values have a JSON form.
    let mut document = serde_json::to_value(openapi).unwrap_or_default();
    for operation in members(&mut document["paths"]).flat_map(members) {
        let parameters = operation.get_mut("parameters");
        let parameters = parameters.and_then(Value::as_array_mut);
        parameters.into_iter().flatten().for_each(remove_null);
        let responses = members(&mut operation["responses"]);
        // hyper writes a response without content by itself.
        let described = responses.filter(|it| it.get("content").is_some());
        described.for_each(add_headers);
    }
    if let Some(Value::Object(schemas)) = document.pointer_mut("/components/schemas") {
        split_alternatives(schemas);
    }
    document
}

fn members(object: &mut Value) -> impl Iterator<Item = &mut Value> {
    object.as_object_mut().into_iter().flat_map(Map::values_mut)
}

/// Describes an optional parameter as one that may be missing: a header cannot be null.
fn remove_null(parameter: &mut Value) {
    if let Some(types) = parameter.pointer_mut("/schema/type")
        && let Some([kind, _]) = types.as_array().map(Vec::as_slice)
    {
        *types = kind.clone();
    }
}

/// Adds the headers that every response has.
fn add_headers(response: &mut Value) {
    for (name, description) in [
        (
            "x-model-version",
            "The version of the release; missing until the release is loaded",
        ),
        (
            "x-model-digest",
            "SHA-256 of the release's files, in hexadecimal; missing until the release is loaded",
        ),
    ] {
        response["headers"][name] =
            json!({"description": description, "schema": {"type": "string"}});
    }
}

/// Replaces each `allOf` with an `anyOf` inside by an `anyOf` of one named `allOf` for each alternative. Generators of
/// clients merge the parts of an `allOf` only if all of them are objects, and only in named schemas.
fn split_alternatives(schemas: &mut Map<String, Value>) {
    let before = schemas.clone();
    for (name, schema) in before.iter().filter(|(_, it)| it.get("allOf").is_some()) {
        let alternatives = alternatives(schema, &before);
        if alternatives.len() < 2 {
            continue;
        }
        let mut references = Vec::with_capacity(alternatives.len());
        for alternative in alternatives {
            let kind = referenced(&alternative["allOf"][0]).unwrap_or_default();
            let alternative_name = format!("{name}{kind}");
            references.push(json!({"$ref": format!("{SCHEMAS}{alternative_name}")}));
            schemas.insert(alternative_name, alternative);
        }
        let description = &schema["description"];
        let any = json!({"anyOf": references, "description": description});
        schemas.insert(name.clone(), any);
    }
}

/// Returns the alternatives that a schema stands for.
fn alternatives(schema: &Value, schemas: &Map<String, Value>) -> Vec<Value> {
    if let Some(named) = referenced(schema).and_then(|name| schemas.get(name)) {
        let alternatives = alternatives(named, schemas);
        if alternatives.len() > 1 {
            return alternatives;
        }
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let of_each = any.iter().map(|it| alternatives(it, schemas));
        return of_each.flatten().collect();
    }
    let mut combined = vec![Vec::new()];
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let of_part = alternatives(part, schemas);
        let with_each = |before: Vec<Value>| {
            let extended = of_part.iter().map(|it| with_part(&before, it));
            extended.collect::<Vec<_>>()
        };
        combined = combined.into_iter().flat_map(with_each).collect();
    }
    if combined.len() < 2 {
        return vec![schema.clone()];
    }
    let combined = combined.into_iter();
    combined.map(|parts| json!({"allOf": parts})).collect()
}

/// Returns the parts of an `allOf` and another part, without an `allOf` inside.
fn with_part(parts: &[Value], part: &Value) -> Vec<Value> {
    let inner = part["allOf"].as_array();
    let more = inner.map_or(slice::from_ref(part), Vec::as_slice);
    [parts, more].concat()
}

/// Returns the name of the schema that a reference names.
fn referenced(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.strip_prefix(SCHEMAS)
}

/// `GET /openapi.json`
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "documentation",
    summary = "This document",
    responses((status = 200, description = "OpenAPI 3.1", body = HashMap<String, Value>), CommonErrors)
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
