//! API keys, and what no request gets.

use std::fs;

use reqwest::{Method, Response, header};
use serde_json::{Value, json};
use tempfile::NamedTempFile;

use crate::support::{Process, Server, command, outcome, settings, until};

const KEY: &str = "first-key-0123456789";

fn file(content: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), content).unwrap();
    file
}

async fn guarded(file: &NamedTempFile) -> Server {
    let mut settings = settings("v1");
    settings.api_keys_file = Some(file.path().to_owned());
    Server::start(settings).await
}

async fn predict(server: &Server, name: &str, value: &str) -> Response {
    let request = server
        .ask
        .client
        .post(format!("{}/predict", server.ask.url));
    let request = request.header(name, value).json(&json!({"text": "fine"}));
    request.send().await.unwrap()
}

#[tokio::test]
async fn only_who_has_a_key_is_answered_and_health_is_open() {
    let file = file(&format!("# of the first team\n{KEY}\n"));
    let server = guarded(&file).await;
    for (name, value, status) in [
        ("authorization", format!("Bearer {KEY}"), 200),
        ("authorization", format!("bearer {KEY}"), 200),
        ("x-api-key", KEY.to_owned(), 200),
        ("x-api-key", format!("{KEY}0"), 401),
        ("authorization", KEY.to_owned(), 401),
        ("x-other", KEY.to_owned(), 401),
    ] {
        let response = predict(&server, name, &value).await;
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
        let response = server.ask.client.get(format!("{}{path}", server.ask.url));
        assert_eq!(response.send().await.unwrap().status(), status, "{path}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_key_is_never_in_the_log() {
    let file = file(KEY);
    let server = Process::start(&[
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
        let request = server
            .ask
            .client
            .post(format!("{}/predict", server.ask.url));
        let request = request.header(name, value).json(&json!({"text": "fine"}));
        assert_eq!(request.send().await.unwrap().status(), status, "{name}");
    }
    server.signal("TERM").await;
    let log = server.log().await;
    let lines = log.iter().filter(|line| line["route"] == "/predict");
    assert_eq!(lines.count(), 3, "{log:#?}");
    assert!(log.iter().all(|line| !line.to_string().contains(KEY)));
}

#[tokio::test]
async fn keys_are_read_again_and_bad_ones_change_nothing() {
    let file = file(KEY);
    let server = guarded(&file).await;
    let other = "other-key-0123456789";
    fs::write(file.path(), format!("{other}\n{other}0\n")).unwrap();
    until("the new key holds", || async {
        predict(&server, "x-api-key", other).await.status() == 200
    })
    .await;
    assert_eq!(predict(&server, "x-api-key", KEY).await.status(), 401);
    fs::write(file.path(), "short").unwrap();
    // Longer than the server waits before it looks again.
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    assert_eq!(predict(&server, "x-api-key", other).await.status(), 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_file_without_keys_ends_the_start() {
    for (content, words) in [("", "holds no API key"), ("short\n", "line 1")] {
        let file = file(content);
        let mut command = command();
        command.envs([("MODEL_VERSION", "v1"), ("PORT", "0")]);
        command.env("API_KEYS_FILE", file.path());
        let (code, _, message) = outcome(&mut command).await;
        assert_eq!(code, Some(1));
        assert!(
            message.contains(words) && !message.contains("short"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn no_answer_allows_other_origins() {
    let server = Server::start(settings("v1")).await;
    for method in [Method::OPTIONS, Method::POST] {
        let request = server
            .ask
            .client
            .request(method, format!("{}/predict", server.ask.url))
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
async fn no_path_leads_to_a_file() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::start(settings("v1")).await;
    for path in [
        "/../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/v2/models/..%2f..%2fetc%2fpasswd",
        "/v2/models/sentiment/versions/..%2fv2",
        "/docs/../../etc/passwd",
    ] {
        // Past the client library, which would tidy the path up.
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", server.port))
            .await
            .unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(answer.contains("{\"error\":"), "{path}: {answer}");
    }
    server.stop().await.unwrap();
}
