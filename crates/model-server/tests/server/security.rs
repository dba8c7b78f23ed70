//! API keys, cross-origin requests, and path traversal.

use std::{fs, time::Duration};

use reqwest::{Method, Response, header};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::support::{
    Server, ServerProcess, TestClient, run_to_exit, server_command, settings, wait_until,
};

const KEY: &str = "first-key-0123456789";

fn key_file(content: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    file
}

async fn server_with_keys(file: &NamedTempFile) -> Server {
    let mut settings = settings("v1");
    settings.api_keys_file = Some(file.path().to_owned());
    Server::start(settings).await
}

async fn predict(client: &TestClient, name: &str, value: &str) -> Response {
    let request = client.predict_request(&json!({"text": "fine"}));
    request.header(name, value).send().await.unwrap()
}

#[tokio::test]
async fn api_key_is_required_except_for_health_probes() {
    let file = key_file(&format!("# the first team\n{KEY}\n"));
    let server = server_with_keys(&file).await;
    for (name, value, status) in [
        ("authorization", format!("Bearer {KEY}"), 200),
        ("authorization", format!("bearer {KEY}"), 200),
        ("x-api-key", KEY.to_owned(), 200),
        ("x-api-key", format!("{KEY}0"), 401),
        ("authorization", KEY.to_owned(), 401),
        ("x-other", KEY.to_owned(), 401),
    ] {
        let response = predict(&server.client, name, &value).await;
        assert_eq!(response.status(), status, "{name}");
        if status == 401 {
            assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
            let body: Value = response.json().await.unwrap();
            let error = body["error"].as_str().unwrap();
            assert!(error.contains("API key") && !error.contains(KEY), "{error}");
        }
    }
    for (path, status) in [
        ("/health", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/startupz", 200),
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2", 401),
        ("/metrics", 401),
        ("/docs", 401),
        ("/nowhere", 401),
    ] {
        let response = server.client.get(path);
        assert_eq!(response.send().await.unwrap().status(), status, "{path}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn valid_key_is_accepted_beside_other_credentials() {
    let file = key_file(KEY);
    let server = server_with_keys(&file).await;
    let basic = "Basic dXNlcjpwYXNzd29yZA==".to_owned();
    let foreign = "Bearer a-token-of-another-layer".to_owned();
    let valid = format!("Bearer {KEY}");
    for (authorization, key, status) in [
        (vec![&basic], Some(KEY), 200),
        (vec![&foreign], Some(KEY), 200),
        (vec![&valid], Some("another-key-0123456789"), 200),
        (vec![&basic, &valid], None, 200),
        (vec![&foreign], Some("another-key-0123456789"), 401),
        (vec![&basic], None, 401),
    ] {
        let mut request = server.client.predict_request(&json!({"text": "fine"}));
        for value in &authorization {
            request = request.header(header::AUTHORIZATION, *value);
        }
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{authorization:?}, {key:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn api_key_never_appears_in_log() {
    let file = key_file(KEY);
    let server = ServerProcess::start(&[
        ("API_KEYS_FILE", file.path().to_str().unwrap()),
        ("GRACE_SECONDS", "0"),
        ("RUST_LOG", "trace"),
    ])
    .await;
    for (name, value, status) in [
        ("authorization", format!("Bearer {KEY}"), 200),
        ("x-api-key", KEY.to_owned(), 200),
        ("x-api-key", format!("{KEY}0"), 401),
    ] {
        let response = predict(&server.client, name, &value).await;
        assert_eq!(response.status(), status, "{name}");
    }
    server.signal("TERM").await;
    let log = server.read_log().await;
    let lines = log.iter().filter(|line| line["route"] == "/predict");
    assert_eq!(lines.count(), 3, "{log:#?}");
    assert!(log.iter().all(|line| !line.to_string().contains(KEY)));
}

#[tokio::test]
async fn key_file_is_reloaded_and_invalid_file_ignored() {
    let file = key_file(KEY);
    let server = server_with_keys(&file).await;
    let other = "other-key-0123456789";
    fs::write(file.path(), format!("{other}\n{other}0\n")).unwrap();
    wait_until("the new key is accepted", || async {
        predict(&server.client, "x-api-key", other).await.status() == 200
    })
    .await;
    assert_eq!(
        predict(&server.client, "x-api-key", KEY).await.status(),
        401
    );
    fs::write(file.path(), "short").unwrap();
    // Longer than the interval at which the server checks the file.
    time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(
        predict(&server.client, "x-api-key", other).await.status(),
        200
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn key_file_without_valid_keys_fails_startup() {
    for (content, reason) in [("", "has no API key"), ("short\n", "line 1")] {
        let file = key_file(content);
        let mut command = server_command();
        command.envs([("MODEL_VERSION", "v1"), ("PORT", "0")]);
        command.env("API_KEYS_FILE", file.path());
        let (code, _, message) = run_to_exit(&mut command).await;
        assert_eq!(code, Some(1));
        assert!(
            message.contains(reason) && !message.contains("short"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn responses_never_allow_cross_origin_requests() {
    let server = Server::start(settings("v1")).await;
    for method in [Method::OPTIONS, Method::POST] {
        let request = server
            .client
            .request(method, "/predict")
            .header(header::ORIGIN, "http://elsewhere.example")
            .header("access-control-request-method", "POST")
            .json(&json!({"text": "fine"}));
        let response = request.send().await.unwrap();
        let names = response.headers().keys();
        let allowed: Vec<_> = names
            .filter(|name| name.as_str().starts_with("access-control"))
            .collect();
        assert!(allowed.is_empty(), "{allowed:?}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn path_traversal_gets_404() {
    let server = Server::start(settings("v1")).await;
    for path in [
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v2/models/..%2f..%2fetc%2fpasswd",
        "/v2/models/sentiment/versions/..%2fv2",
        "/docs/../../etc/passwd",
    ] {
        // Written to the socket, because the client library would normalize the path.
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 404"), "{path}: {response}");
        assert!(response.contains("{\"error\":"), "{path}: {response}");
    }
    server.stop().await.unwrap();
}
