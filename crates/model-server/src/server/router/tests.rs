//! The OpenAPI document lists each error that a route can return.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode},
};
use clap::Parser;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::{
    api::{error::ApiError, openapi},
    config::{ServeArguments, Settings},
    server::router::{documented, router},
    state::ServerState,
};

#[derive(Parser)]
pub(crate) struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
}

/// The settings of a server without a release.
pub(crate) fn settings() -> Settings {
    let arguments = ["model-server", "--model-version=any"];
    Arguments::parse_from(arguments).serve.resolve().unwrap()
}

pub(crate) fn document() -> Value {
    let state = Arc::new(ServerState::new(&settings(), Instant::now()));
    let (_, document) = documented(&state, &openapi::Document::default()).split_for_parts();
    openapi::finished(&document)
}

fn json_error() -> serde_json::Error {
    serde_json::from_str::<Value>("{").unwrap_err()
}

/// Iterates over all errors. A new variant does not compile until it is added here.
pub(crate) fn after(error: Option<&ApiError>) -> Option<ApiError> {
    let Some(error) = error else {
        return Some(ApiError::Unavailable(String::new()));
    };
    Some(match error {
        ApiError::Unavailable(_) => ApiError::QueueFull,
        ApiError::QueueFull => ApiError::MemoryExhausted,
        ApiError::MemoryExhausted => ApiError::Timeout(Duration::ZERO),
        ApiError::Timeout(_) => ApiError::Internal(String::new()),
        ApiError::Internal(_) => ApiError::NoTexts,
        ApiError::NoTexts => ApiError::TimeoutHeader(String::new()),
        ApiError::TimeoutHeader(_) => ApiError::NoKey,
        ApiError::NoKey => ApiError::UnknownModel {
            asked: String::new(),
            served: String::new(),
        },
        ApiError::UnknownModel { .. } => ApiError::Path(String::new()),
        ApiError::Path(_) => ApiError::Protocol(json_error()),
        ApiError::Protocol(_) => ApiError::UnknownPath {
            path: String::new(),
        },
        ApiError::UnknownPath { .. } => ApiError::WrongMethod {
            method: Method::GET,
        },
        ApiError::WrongMethod { .. } => ApiError::BodyTooLarge { limit: 0 },
        ApiError::BodyTooLarge { .. } => ApiError::BodyTimeout(Duration::ZERO),
        ApiError::BodyTimeout(_) => ApiError::BodyUnreadable(String::new()),
        ApiError::BodyUnreadable(_) => ApiError::Compressed {
            encoding: String::new(),
            reason: String::new(),
        },
        ApiError::Compressed { .. } => ApiError::ContentEncoding(String::new()),
        ApiError::ContentEncoding(_) => ApiError::ContentType(String::new()),
        ApiError::ContentType(_) => ApiError::NoBody,
        ApiError::NoBody => ApiError::Json(json_error()),
        ApiError::Json(_) => ApiError::NotAnObject(""),
        ApiError::NotAnObject(_) => ApiError::Field {
            field: "",
            problem: String::new(),
        },
        ApiError::Field { .. } => ApiError::UnknownField {
            field: String::new(),
            problem: String::new(),
        },
        ApiError::UnknownField { .. } => return None,
    })
}

/// Whether a route may return this error.
fn may_answer(path: &str, error: &ApiError) -> bool {
    let predicts = path == "/predict" || path.ends_with("/infer");
    let names_model = path.contains("{model}");
    match error {
        ApiError::Internal(_) | ApiError::NoKey | ApiError::WrongMethod { .. } => true,
        ApiError::Path(_) | ApiError::UnknownModel { .. } => names_model,
        ApiError::Unavailable(_) => predicts || names_model,
        ApiError::UnknownPath { .. } => false,
        ApiError::Protocol(_) => path.ends_with("/infer"),
        ApiError::NoTexts
        | ApiError::NoBody
        | ApiError::Json(_)
        | ApiError::NotAnObject(_)
        | ApiError::UnknownField { .. } => path == "/predict",
        ApiError::QueueFull
        | ApiError::MemoryExhausted
        | ApiError::Timeout(_)
        | ApiError::TimeoutHeader(_)
        | ApiError::BodyTooLarge { .. }
        | ApiError::BodyTimeout(_)
        | ApiError::BodyUnreadable(_)
        | ApiError::Compressed { .. }
        | ApiError::ContentEncoding(_)
        | ApiError::ContentType(_)
        | ApiError::Field { .. } => predicts,
    }
}

#[test]
fn openapi_document_lists_every_error_of_every_route() {
    let document = document();
    let mut checked = 0;
    let mut error = after(None);
    while let Some(this) = error {
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let status = this.status().as_u16().to_string();
                let is_there = operation["responses"].get(&status).is_some();
                assert!(
                    is_there || !may_answer(path, &this),
                    "{method} {path} may answer {status} ({this})"
                );
                checked += 1;
            }
        }
        error = after(Some(&this));
    }
    assert!(checked > 300, "{checked}");
}

#[tokio::test]
async fn version_in_the_path_must_be_the_served_one() {
    let state = Arc::new(ServerState::new(&settings(), Instant::now()));
    for (path, status) in [
        ("sentiment", StatusCode::SERVICE_UNAVAILABLE),
        ("sentiment/versions/any", StatusCode::SERVICE_UNAVAILABLE),
        ("sentiment/versions/other", StatusCode::NOT_FOUND),
        ("other", StatusCode::NOT_FOUND),
        ("other/versions/any", StatusCode::NOT_FOUND),
    ] {
        for (method, route) in [("GET", ""), ("GET", "/ready"), ("POST", "/infer")] {
            let request = Request::builder().method(method);
            let request = request.uri(format!("/v2/models/{path}{route}"));
            let request = request.body(Body::from(r#"{"inputs": []}"#)).unwrap();
            let response = router(Arc::clone(&state)).oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{method} {path}{route}");
        }
    }
}

#[tokio::test]
async fn answers_before_the_release_is_loaded_name_no_release() {
    let state = Arc::new(ServerState::new(&settings(), Instant::now()));
    for (path, status, expected) in [
        ("/v2/health/live", 200, json!({"live": true})),
        (
            "/v2/health/ready",
            503,
            json!({"ready": false, "reason": "loading the release"}),
        ),
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(Arc::clone(&state)).oneshot(request).await.unwrap();
        assert_eq!(response.status(), status, "{path}");
        for name in ["x-model-version", "x-model-digest"] {
            assert!(!response.headers().contains_key(name), "{path}: {name}");
        }
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }
}

#[test]
fn routes_of_a_version_are_described_with_their_parameter() {
    let document = document();
    for (method, route) in [("get", ""), ("get", "/ready"), ("post", "/infer")] {
        let path = format!("/v2/models/{{model}}/versions/{{version}}{route}");
        let operation = &document["paths"][&path][method];
        let parameters = operation["parameters"].as_array().unwrap();
        let names: Vec<_> = parameters
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        assert!(
            names.contains(&"model") && names.contains(&"version"),
            "{path}: {names:?}"
        );
        let id = operation["operationId"].as_str().unwrap();
        assert!(id.ends_with("_version"), "{id}");
    }
}

#[test]
fn openapi_document_describes_data_as_clients_send_it() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    for tensor in ["RequestInput", "ResponseOutput"] {
        let data = &schemas[tensor]["properties"]["data"];
        assert_eq!(data["items"]["$ref"], "#/components/schemas/TensorElement");
    }
    let types = schemas["TensorElement"]["oneOf"].as_array().unwrap();
    let types: Vec<_> = types
        .iter()
        .map(|it| it["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["number", "boolean", "string", "array"]);
    for parameters in ["InferRequest", "RequestInput", "RequestOutput"] {
        let parameters = &schemas[parameters]["properties"]["parameters"];
        assert!(
            parameters["additionalProperties"].is_object(),
            "{parameters}"
        );
    }
    let infer = &document["paths"]["/v2/models/{model}/infer"]["post"];
    for body in [&infer["requestBody"], &infer["responses"]["200"]] {
        let binary = &body["content"]["application/octet-stream"]["schema"];
        assert_eq!(
            (&binary["type"], &binary["format"]),
            (&json!("string"), &json!("binary"))
        );
    }
}

#[test]
fn openapi_document_gives_every_response_the_headers_of_the_release() {
    let document = document();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                for name in ["x-model-version", "x-model-digest"] {
                    let described = response["headers"][name].is_object();
                    // hyper writes 431 by itself.
                    assert_eq!(described, status != "431", "{path} {status} {name}");
                }
            }
        }
    }
}

#[test]
fn openapi_document_allows_no_null_parameters() {
    let document = document();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for operation in operations.as_object().unwrap().values() {
            assert_ne!(operation.get("parameters"), Some(&Value::Null), "{path}");
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            for parameter in parameters {
                assert!(
                    parameter["schema"]["type"].is_string(),
                    "{path}: {parameter}"
                );
            }
        }
    }
}

#[test]
fn openapi_document_merges_only_objects() {
    fn check(value: &Value, schemas: &Value) {
        let parts = value["allOf"].as_array().into_iter().flatten();
        for part in parts {
            let reference = part["$ref"].as_str().unwrap_or_default();
            let named = &schemas[reference.rsplit('/').next().unwrap_or_default()];
            let is_object = |it: &Value| it["type"] == "object" || it.get("allOf").is_some();
            assert!(is_object(part) || is_object(named), "{value}");
        }
        match value {
            Value::Object(members) => members.values().for_each(|it| check(it, schemas)),
            Value::Array(items) => items.iter().for_each(|it| check(it, schemas)),
            _ => {}
        }
    }
    let document = document();
    let schemas = &document["components"]["schemas"];
    check(schemas, schemas);
    let one_text = schemas["PredictResponse"]["anyOf"].as_array().unwrap();
    assert!(one_text.len() > 1, "{one_text:?}");
}
