//! Requests that are refused before their body is parsed, and the memory budget of large bodies.

use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::support::{Server, TIMEOUT, settings, wait_until};

const JSON: &str = "application/json";

/// Larger than the socket buffers, so that the client is still sending when the server refuses.
const LARGE: usize = 8 * 1024 * 1024;

fn large_request(server: &Server, method: Method, path: &str) -> RequestBuilder {
    server
        .client
        .request(method, path)
        .header(header::CONTENT_TYPE, JSON)
        .body("x".repeat(LARGE))
}

#[tokio::test]
async fn early_response_waits_for_full_request_body() {
    let server = Server::start(settings("v1")).await;
    let (get, post) = (Method::GET, Method::POST);
    for (request, status) in [
        (large_request(&server, post.clone(), "/nothing"), 404),
        (large_request(&server, Method::PUT, "/predict"), 405),
        (
            large_request(&server, post.clone(), "/v2/models/other/infer"),
            404,
        ),
        (
            large_request(&server, post.clone(), "/v2/models/%FF/infer"),
            400,
        ),
        (
            large_request(&server, post.clone(), "/predict").header("x-request-timeout-ms", "soon"),
            400,
        ),
        (large_request(&server, get, "/livez"), 200),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        response.json::<Value>().await.unwrap();
    }
    // Without a content type.
    let request = server.client.post("/predict").body("x".repeat(LARGE));
    assert_eq!(request.send().await.unwrap().status(), 415);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn request_without_key_is_read_fully_before_401() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "a-key-that-is-long-enough\n").unwrap();
    let mut settings = settings("v1");
    settings.api_keys_file = Some(keys);
    let server = Server::start(settings).await;
    let response = large_request(&server, Method::POST, "/predict")
        .send()
        .await;
    assert_eq!(response.unwrap().status(), 401);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn path_with_invalid_utf8_gets_400_in_json() {
    let server = Server::start(settings("v1")).await;
    for path in ["/v2/models/%FF", "/v2/models/sentiment/versions/%FF/ready"] {
        let request = server.client.get(path);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400);
        let response: Value = response.json().await.unwrap();
        let error = response["error"].as_str().unwrap();
        assert!(error.contains("invalid path"), "{error}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn large_body_gets_429_while_memory_budget_is_exhausted() {
    let mut settings = settings("v1");
    settings.limits.max_body_bytes = 60_000;
    settings.limits.max_pending_bytes = 60_000;
    let server = Server::start(settings).await;
    let text = "fine ".repeat(8_000);
    let body = json!({ "text": text }).to_string();

    // Another request reserves most of the memory budget and stays incomplete.
    let mut other = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    other.write_all(head.as_bytes()).await.unwrap();
    let (most, last_byte) = body.split_at(body.len() - 1);
    other.write_all(most.as_bytes()).await.unwrap();
    wait_until("the memory budget is exhausted", || async {
        server.client.predict(&text).await.status() == 429
    })
    .await;
    let refused = server.client.predict(&text).await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    // A small body needs no reservation.
    assert_eq!(server.client.predict("fine").await.status(), 200);

    other.write_all(last_byte.as_bytes()).await.unwrap();
    let mut response = String::new();
    other.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert_eq!(server.client.predict(&text).await.status(), 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn non_http_head_gets_400_and_is_counted() {
    let server = Server::start(settings("v1")).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    stream.write_all(b"not http at all\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 400"), "{response}");
    wait_until("the error is counted", || async {
        let metrics = server.client.metrics().await;
        metrics.contains(r#"model_server_errors_total{kind="unreadable_head"} 1"#)
    })
    .await;
    server.stop().await.unwrap();
}

/// Sends the head of a request that waits for `100 Continue` before its body.
async fn send_expecting_head(server: &Server, head: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let head = format!("{head}\r\nhost: test\r\nexpect: 100-Continue\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut response = String::new();
    let read = time::timeout(TIMEOUT, stream.read_to_string(&mut response)).await;
    read.expect("the server closes the connection in time")
        .unwrap();
    response
}

#[tokio::test]
async fn expected_refusal_comes_instead_of_100_continue() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "a-key-that-is-long-enough\n").unwrap();
    let mut settings = settings("v1");
    settings.api_keys_file = Some(keys);
    let server = Server::start(settings).await;
    let key = "x-api-key: a-key-that-is-long-enough";
    let json = "content-type: application/json";
    for (target, headers, length, status) in [
        ("POST /predict", json, 100, 401),
        ("POST /predict", &format!("{key}\r\n{json}"), 4097, 413),
        ("POST /v2/models/sentiment/infer", key, 4097, 413),
        ("POST /nothing", key, 100, 404),
        ("POST /v2/models/other/infer", key, 100, 404),
        ("PUT /predict", key, 100, 405),
        ("POST /predict", key, 100, 415),
        (
            "POST /predict",
            &format!("{key}\r\n{json}\r\ncontent-encoding: br"),
            100,
            415,
        ),
        (
            "POST /predict",
            &format!("{key}\r\n{json}\r\nx-request-timeout-ms: soon"),
            100,
            400,
        ),
    ] {
        let head = format!("{target} HTTP/1.1\r\n{headers}\r\ncontent-length: {length}");
        let mut stream = send_expecting_head(&server, &head).await;
        let response = read_to_end(&mut stream).await;
        let expected = format!("HTTP/1.1 {status}");
        assert!(response.starts_with(&expected), "{head}: {response}");
        assert!(response.contains("connection: close"), "{head}: {response}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn expected_body_is_read_after_100_continue() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "a fine film"}).to_string();
    let head = format!(
        "POST /predict HTTP/1.1\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\nconnection: close",
        body.len()
    );
    let mut stream = send_expecting_head(&server, &head).await;
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(body.as_bytes()).await.unwrap();
    let response = read_to_end(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn error_keeps_connection_open_if_expected_body_was_read() {
    let server = Server::start(settings("v1")).await;
    let post = |body: &Value, close: &str| {
        let length = body.to_string().len();
        format!("POST /predict HTTP/1.1\r\ncontent-type: {JSON}\r\ncontent-length: {length}{close}")
    };
    let (bad, good) = (json!({"text": 7}), json!({"text": "a fine film"}));
    let mut stream = send_expecting_head(&server, &post(&bad, "")).await;
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    let head = post(&good, "\r\nconnection: close");
    let next = format!("{bad}{head}\r\nhost: test\r\n\r\n{good}");
    stream.write_all(next.as_bytes()).await.unwrap();
    let responses = read_to_end(&mut stream).await;
    assert!(responses.starts_with("HTTP/1.1 400"), "{responses}");
    assert!(responses.contains("HTTP/1.1 200 OK"), "{responses}");
    server.stop().await.unwrap();
}
