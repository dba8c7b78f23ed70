//! `/predict` and `/health`: responses, error messages, and counters.

use axum::http::HeaderValue;
use model_server::EngineKind;
use reqwest::{Method, Response, header};
use serde_json::{Value, json};

use crate::support::{Server, fixture_settings, sample_value, settings, status_and_json};

const JSON: &str = "application/json";

async fn post_raw(server: &Server, content_type: &str, body: impl Into<String>) -> Response {
    let request = server.client.post("/predict");
    let request = request.header(header::CONTENT_TYPE, content_type);
    request.body(body.into()).send().await.unwrap()
}

async fn predict(server: &Server, body: Value) -> (u16, Value) {
    let response = server.client.predict_request(&body).send().await;
    status_and_json(response.unwrap()).await
}

#[tokio::test]
async fn health_reports_served_release() {
    let server = Server::start(settings("v1")).await;
    let (status, health) = server.client.health().await;
    assert_eq!(status, 200);
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["model_name"], "sentiment");
    assert_eq!(health["model_version"], "v1");
    let root = settings("v1").model.root;
    let release = model_repository::ReleaseDirectory::locate(&root, "sentiment", "v1");
    assert_eq!(health["model_digest"], release.unwrap().digest().unwrap());
    assert!(health["uptime_seconds"].as_f64().unwrap() >= 0.0);
    assert_eq!(health["time_limits"]["request_timeout_seconds"], 30.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn predict_returns_label_and_confidence() {
    let server = Server::start(settings("v1")).await;
    for (text, label) in [
        ("A wonderful film, I love it.", "positive"),
        ("What a terrible waste of time.", "negative"),
    ] {
        let response = server.client.predict(text).await;
        assert_eq!(response.headers()["x-predicted-label"], label, "{text}");
        let (status, response) = status_and_json(response).await;
        assert_eq!(status, 200);
        assert_eq!(response["prediction"], label, "{text}");
        assert_eq!(response["model_version"], "v1");
        let confidence = response["confidence"].as_f64().unwrap();
        assert!((0.5..=1.0).contains(&confidence), "{confidence}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn text_longer_than_token_limit_gets_prediction() {
    let mut settings = settings("v1");
    settings.limits.max_body_bytes = 1024 * 1024;
    let server = Server::start(settings).await;
    let words = "wonderful ".repeat(50_000);
    let (status, response) = status_and_json(server.client.predict(&words).await).await;
    assert_eq!((status, &response["prediction"]), (200, &json!("positive")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn invalid_body_gets_status_and_reason() {
    let server = Server::start(settings("v1")).await;
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(5000));
    for (content_type, body, expected, reason, field) in [
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
        let (status, response) = status_and_json(post_raw(&server, content_type, body).await).await;
        assert_eq!(status, expected, "{body:.40}: {response}");
        let error = response["error"].as_str().unwrap();
        assert!(error.contains(reason), "{body:.40}: {error}");
        assert_eq!(
            response.get("field").and_then(Value::as_str),
            field,
            "{body:.40}"
        );
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn body_far_over_limit_is_read_fully_before_413() {
    let server = Server::start(settings("v1")).await;
    let (status, _) =
        status_and_json(post_raw(&server, JSON, "a".repeat(8 * 1024 * 1024)).await).await;
    assert_eq!(status, 413);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn errors_for_unknown_path_and_method_list_known_ones() {
    let server = Server::start(settings("v1")).await;
    let send = |method, path| server.client.request(method, path).send();
    let response = send(Method::GET, "/predictions").await.unwrap();
    let (status, response) = status_and_json(response).await;
    assert_eq!(status, 404);
    assert!(
        response["error"]
            .as_str()
            .unwrap()
            .contains("POST /predict")
    );

    let response = send(Method::GET, "/predict").await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "POST");
    assert_eq!(response.status(), 405);

    let response = send(Method::DELETE, "/health").await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "GET,HEAD");
    let (status, response) = status_and_json(response).await;
    assert_eq!(status, 405);
    assert!(response["error"].as_str().unwrap().contains("GET /health"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bad_request_counts_as_request_but_not_error() {
    let server = Server::start(settings("v1")).await;
    assert_eq!(server.client.predict("fine").await.status(), 200);
    assert_eq!(post_raw(&server, JSON, "{}").await.status(), 400);
    // Health checks are not counted.
    server.client.health().await;
    let (_, health) = server.client.health().await;
    assert_eq!(health["request_count"], 2);
    assert_eq!(health["error_count"], 0);
    assert_eq!(health["error_rate"], 0.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn charset_parameter_of_media_type_is_accepted() {
    let server = Server::start(settings("v1")).await;
    let body = r#"{"text": "fine"}"#;
    let response = post_raw(&server, "application/json; charset=utf-8", body).await;
    assert_eq!(response.status(), 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn unknown_field_gets_400_and_its_name() {
    let server = Server::start(settings("v1")).await;
    let (status, response) = predict(&server, json!({"text": "fine", "topk": 2})).await;
    assert_eq!((status, &response["field"]), (400, &json!("topk")));
    let error = response["error"].as_str().unwrap();
    assert!(error.contains("did you mean top_k?"), "{error}");
    let document = server.client.get("/openapi.json").send().await.unwrap();
    let (_, document) = status_and_json(document).await;
    let schema = &document["components"]["schemas"]["PredictRequest"];
    assert_eq!(schema["additionalProperties"], false, "{schema}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn pair_is_answered_alone_and_among_others() {
    let server = Server::start(fixture_settings("quantizing", EngineKind::Rten)).await;
    let (_, alone) = predict(&server, json!({"text": "a film", "top_k": 3})).await;
    let pair = json!({"text": "a film", "text_pair": "I love it", "top_k": 3});
    let (status, pair) = predict(&server, pair).await;
    assert_eq!(status, 200, "{pair}");
    assert_ne!(alone["scores"], pair["scores"]);
    let several = json!({
        "texts": ["a film", "", "a film", "awful"],
        "text_pairs": ["I love it", "b", " ", "awful ".repeat(50)],
        "top_k": 3,
    });
    let (status, several) = predict(&server, several).await;
    assert_eq!(status, 200, "{several}");
    let items = several["predictions"].as_array().unwrap();
    assert_eq!(items[0]["scores"], pair["scores"]);
    for (item, place) in [(1, "texts[1]"), (2, "text_pairs[2]")] {
        let error = items[item]["error"].as_str().unwrap();
        assert!(error.starts_with(&format!("{place} is blank")), "{error}");
    }
    assert_eq!(items[3]["truncated"], true);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn pair_gets_400_if_the_tokenizer_makes_none() {
    let server = Server::start(settings("v1")).await;
    for (body, field) in [
        (json!({"text": "a", "text_pair": "b"}), "text_pair"),
        (json!({"texts": ["a"], "text_pairs": ["b"]}), "text_pairs"),
    ] {
        let (status, response) = predict(&server, body).await;
        assert_eq!((status, response["field"].as_str()), (400, Some(field)));
        let error = response["error"].as_str().unwrap();
        let expected = format!("makes no pairs; expected no {field}");
        assert!(error.ends_with(&expected), "{error}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn custom_layer_sees_every_response() {
    let server = Server::start_wrapped(settings("v1"), |router| {
        router.layer(axum::middleware::map_response(
            async |mut response: axum::response::Response| {
                let seen = HeaderValue::from_static("yes");
                response.headers_mut().insert("x-seen", seen);
                response
            },
        ))
    })
    .await;
    assert_eq!(
        server.client.predict("fine").await.headers()["x-seen"],
        "yes"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn predictions_keep_order_of_texts_and_report_truncation() {
    let mut settings = settings("v1");
    settings.limits.max_body_bytes = 100_000;
    let server = Server::start(settings).await;
    let texts = ["wonderful ".repeat(1000), "awful".to_owned()];
    let body = json!({"texts": texts, "top_k": 1});
    let (status, response) = predict(&server, body).await;
    assert_eq!(status, 200, "{response}");
    assert_eq!(response["model_version"], "v1");
    let predictions = response["predictions"].as_array().unwrap();
    let outcomes: Vec<_> = predictions
        .iter()
        .map(|it| {
            (
                it["prediction"].as_str().unwrap(),
                it["truncated"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(outcomes, [("positive", true), ("negative", false)]);
    assert_eq!(predictions[0]["scores"].as_array().unwrap().len(), 1);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn texts_exceeding_quarter_of_queue_get_400() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"texts": vec!["fine"; 17]});
    let (status, response) = predict(&server, body).await;
    assert_eq!(status, 400);
    assert!(
        response["error"]
            .as_str()
            .unwrap()
            .contains("expected 1 to 16"),
        "{response}"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn blank_text_among_others_fails_alone() {
    let server = Server::start(settings("v1")).await;
    let (status, response) = predict(&server, json!({"texts": ["wonderful", " ", "awful"]})).await;
    assert_eq!(status, 200, "{response}");
    let predictions = &response["predictions"];
    assert_eq!(predictions[0]["prediction"], "positive");
    assert!(predictions[1]["error"].as_str().unwrap().contains("blank"));
    assert_eq!(predictions[2]["prediction"], "negative");
    assert_eq!(predict(&server, json!({"texts": [" "]})).await.0, 400);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn timeout_header_takes_only_positive_milliseconds() {
    let server = Server::start(settings("v1")).await;
    for (value, expected) in [("5000", 200), ("999999999", 200), ("0", 400), ("soon", 400)] {
        let request = server.client.predict_request(&json!({"text": "fine"}));
        let request = request.header("x-request-timeout-ms", value);
        let (status, response) = status_and_json(request.send().await.unwrap()).await;
        assert_eq!(status, expected, "{value}: {response}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn trailing_slash_in_path_is_ignored() {
    let server = Server::start(settings("v1")).await;
    let predict = server.client.post("/predict/");
    for (request, status) in [
        (predict.json(&json!({"text": "fine"})), 200),
        (server.client.get("/health/?verbose=1"), 200),
        (server.client.get("/nothing/"), 404),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let text = server.client.metrics().await;
    for labels in [
        r#"route="/predict",method="POST",code="200""#,
        r#"route="unmatched",method="GET",code="404""#,
    ] {
        let name = format!("model_server_requests_total{{{labels}}}");
        assert_eq!(sample_value(&text, &name), Some(1.0), "{name}\n{text}");
    }
    server.stop().await.unwrap();
}
