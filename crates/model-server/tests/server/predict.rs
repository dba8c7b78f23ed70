//! Good and bad requests, and what is counted of them.

use axum::http::HeaderValue;
use reqwest::{Method, Response, header};
use serde_json::{Value, json};

use crate::support::{Server, settings};

const JSON: &str = "application/json";

/// Sends `body` to `/predict` as it is.
async fn post(server: &Server, content_type: &str, body: impl Into<String>) -> Response {
    let request = server
        .ask
        .client
        .post(format!("{}/predict", server.ask.url));
    let request = request.header(header::CONTENT_TYPE, content_type);
    request.body(body.into()).send().await.unwrap()
}

async fn parts(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn health_tells_what_is_served() {
    let server = Server::start(settings("v1")).await;
    let (status, health) = server.ask.health().await;
    assert_eq!(status, 200);
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["model_name"], "sentiment");
    assert_eq!(health["model_version"], "v1");
    let root = settings("v1").model_root;
    let release = model_repository::ReleaseDirectory::locate(&root, "sentiment", "v1");
    assert_eq!(health["model_digest"], release.unwrap().digest().unwrap());
    assert!(health["uptime_seconds"].as_f64().unwrap() >= 0.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_text_gets_its_label_with_a_probability() {
    let server = Server::start(settings("v1")).await;
    for (text, label) in [
        ("A wonderful film, I love it.", "positive"),
        ("What a terrible waste of time.", "negative"),
    ] {
        let response = server.ask.predict(text).await;
        assert_eq!(response.headers()["x-predicted-label"], label, "{text}");
        let (status, answer) = parts(response).await;
        assert_eq!(status, 200);
        assert_eq!(answer["prediction"], label, "{text}");
        assert_eq!(answer["model_version"], "v1");
        let confidence = answer["confidence"].as_f64().unwrap();
        assert!((0.5..=1.0).contains(&confidence), "{confidence}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_text_longer_than_the_model_takes_is_cut_and_answered() {
    let mut settings = settings("v1");
    settings.max_body_bytes = 1024 * 1024;
    let server = Server::start(settings).await;
    let words = "wonderful ".repeat(50_000);
    let (status, answer) = parts(server.ask.predict(&words).await).await;
    assert_eq!((status, &answer["prediction"]), (200, &json!("positive")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_input_is_told_what_is_wrong_with_it() {
    let server = Server::start(settings("v1")).await;
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(5000));
    for (content_type, body, status, words, field) in [
        (JSON, "", 400, "the body is empty", None),
        (JSON, "{\"text\": fine}", 400, "line 1 column 11", None),
        (JSON, "[\"fine\"]", 400, "the body is an array", None),
        (JSON, "{}", 400, "text is missing", Some("text")),
        (
            JSON,
            r#"{"text": 7}"#,
            400,
            "text is a number",
            Some("text"),
        ),
        (JSON, r#"{"text": " "}"#, 400, "text is blank", Some("text")),
        (JSON, long.as_str(), 413, "larger than 4096 bytes", None),
        (
            "text/plain",
            "fine",
            415,
            "content-type is text/plain",
            None,
        ),
    ] {
        let (seen, answer) = parts(post(&server, content_type, body).await).await;
        assert_eq!(seen, status, "{body:.40}: {answer}");
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains(words), "{body:.40}: {error}");
        assert_eq!(
            answer.get("field").and_then(Value::as_str),
            field,
            "{body:.40}"
        );
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_body_far_over_the_limit_is_read_to_its_end_before_it_is_refused() {
    let server = Server::start(settings("v1")).await;
    let (status, _) = parts(post(&server, JSON, "a".repeat(8 * 1024 * 1024)).await).await;
    assert_eq!(status, 413);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn unknown_paths_and_methods_are_told_the_known_ones() {
    let server = Server::start(settings("v1")).await;
    let ask = |method, path: &str| {
        let url = format!("{}{path}", server.ask.url);
        server.ask.client.request(method, url).send()
    };
    let response = ask(Method::GET, "/predictions").await.unwrap();
    let (status, answer) = parts(response).await;
    assert_eq!(status, 404);
    assert!(answer["error"].as_str().unwrap().contains("POST /predict"));

    let response = ask(Method::GET, "/predict").await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "POST");
    assert_eq!(response.status(), 405);

    let response = ask(Method::DELETE, "/health").await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "GET,HEAD");
    let (status, answer) = parts(response).await;
    assert_eq!(status, 405);
    assert!(answer["error"].as_str().unwrap().contains("GET /health"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_requests_are_counted_but_are_no_errors_and_health_checks_are_not_counted() {
    let server = Server::start(settings("v1")).await;
    assert_eq!(server.ask.predict("fine").await.status(), 200);
    assert_eq!(post(&server, JSON, "{}").await.status(), 400);
    server.ask.health().await;
    let (_, health) = server.ask.health().await;
    assert_eq!(health["request_count"], 2);
    assert_eq!(health["error_count"], 0);
    assert_eq!(health["error_rate"], 0.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn other_fields_are_ignored_and_the_content_type_may_name_a_charset() {
    let server = Server::start(settings("v1")).await;
    let body = r#"{"id": "7", "text": "fine"}"#;
    let response = post(&server, "application/json; charset=utf-8", body).await;
    assert_eq!(response.status(), 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_layer_around_the_router_sees_every_answer() {
    let server = Server::wrapped(settings("v1"), |router| {
        router.layer(axum::middleware::map_response(
            async |mut response: axum::response::Response| {
                let seen = HeaderValue::from_static("yes");
                response.headers_mut().insert("x-seen", seen);
                response
            },
        ))
    })
    .await;
    assert_eq!(server.ask.predict("fine").await.headers()["x-seen"], "yes");
    server.stop().await.unwrap();
}
