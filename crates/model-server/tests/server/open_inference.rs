//! The Open Inference Protocol, where its clients differ in what they send and expect.

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Server, settings, status_and_json};

#[tokio::test]
async fn optional_fields_of_a_request_may_be_null() {
    let server = Server::start(settings("v1")).await;
    let input = json!({
        "name": "text", "shape": [1], "datatype": "BYTES", "data": ["a fine film"],
        "parameters": null,
    });
    for request in [
        json!({"inputs": [input], "parameters": null, "id": null, "outputs": null}),
        json!({"inputs": [input], "outputs": [{"name": "label", "parameters": null}]}),
    ] {
        let sent = server.client.post("/v2/models/sentiment/infer");
        let (status, response) = status_and_json(sent.json(&request).send().await.unwrap()).await;
        assert_eq!(status, 200, "{response}");
        assert_eq!(response["outputs"][0]["data"], json!(["positive"]));
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn unknown_parameters_are_ignored() {
    let server = Server::start(settings("v1")).await;
    let parameters = json!({"unknown": [1, {"nested": true}]});
    let request = json!({
        "inputs": [{
            "name": "text", "shape": [1], "datatype": "BYTES", "data": ["a fine film"],
            "parameters": parameters,
        }],
        "outputs": [{"name": "label", "parameters": parameters}],
        "parameters": parameters,
    });
    let sent = server.client.post("/v2/models/sentiment/infer");
    let (status, response) = status_and_json(sent.json(&request).send().await.unwrap()).await;
    assert_eq!(status, 200, "{response}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn health_answers_have_the_fields_of_the_protocol() {
    let server = Server::start(settings("v1")).await;
    for (path, expected) in [
        ("/v2/health/live", json!({"live": true})),
        ("/v2/health/ready", json!({"ready": true})),
        (
            "/v2/models/sentiment/ready",
            json!({"name": "sentiment", "ready": true}),
        ),
        (
            "/v2/models/sentiment/versions/v1/ready",
            json!({"name": "sentiment", "ready": true}),
        ),
    ] {
        for path in [path.to_owned(), format!("{path}/")] {
            let response = server.client.get(&path).send().await.unwrap();
            assert_eq!(status_and_json(response).await, (200, expected.clone()));
        }
    }
    let (status, metadata) = status_and_json(server.client.get("/v2/").send().await.unwrap()).await;
    assert_eq!((status, &metadata["name"]), (200, &json!("model-server")));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn every_answer_names_version_and_digest() {
    let server = Server::start(settings("v1")).await;
    let (_, health) = server.client.health().await;
    let digest = health["model_digest"].as_str().unwrap();
    let mut statuses = BTreeMap::new();
    for (method, path, body) in [
        (Method::GET, "/health", None),
        (Method::GET, "/livez", None),
        (Method::GET, "/metrics", None),
        (Method::GET, "/openapi.json", None),
        (Method::GET, "/docs", None),
        (Method::GET, "/v2", None),
        (Method::GET, "/v2/models/other", None),
        (Method::GET, "/nothing", None),
        (Method::PUT, "/predict", None),
        (Method::POST, "/predict", Some(json!({"text": "fine"}))),
        (Method::POST, "/predict", Some(Value::Null)),
        (
            Method::POST,
            "/predict",
            Some(json!({"text": "fine".repeat(2000)})),
        ),
    ] {
        let mut request = server.client.request(method, path);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        *statuses.entry(status).or_insert(0) += 1;
        assert_eq!(response.headers()["x-model-version"], "v1", "{path}");
        assert_eq!(response.headers()["x-model-digest"], digest, "{path}");
    }
    let expected = BTreeMap::from([(200, 7), (400, 1), (404, 2), (405, 1), (413, 1)]);
    assert_eq!(statuses, expected);
    server.stop().await.unwrap();
}
