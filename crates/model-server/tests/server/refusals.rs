//! Requests that are refused before anybody reads their body, and those for which there is no room.

use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Server, settings, until};

const JSON: &str = "application/json";

/// More than a connection holds on its way, so that a client is still sending when it is refused.
const LARGE: usize = 8 * 1024 * 1024;

fn sending(server: &Server, method: Method, path: &str) -> RequestBuilder {
    let url = format!("{}{path}", server.ask.url);
    let request = server.ask.client.request(method, url);
    request
        .header(header::CONTENT_TYPE, JSON)
        .body("x".repeat(LARGE))
}

#[tokio::test]
async fn whoever_is_refused_early_may_send_to_the_end_and_is_told_why() {
    let server = Server::start(settings("v1")).await;
    let (get, post) = (Method::GET, Method::POST);
    for (request, status) in [
        (sending(&server, post.clone(), "/nothing"), 404),
        (sending(&server, Method::PUT, "/predict"), 405),
        (
            sending(&server, post.clone(), "/v2/models/other/infer"),
            404,
        ),
        (sending(&server, post.clone(), "/v2/models/%FF/infer"), 400),
        (
            sending(&server, post.clone(), "/predict").header("x-request-timeout-ms", "soon"),
            400,
        ),
        (sending(&server, get, "/livez"), 200),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status);
        response.json::<Value>().await.unwrap();
    }
    let url = format!("{}/predict", server.ask.url);
    let request = server.ask.client.post(url).body("x".repeat(LARGE));
    assert_eq!(request.send().await.unwrap().status(), 415);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_has_no_key_may_send_to_the_end_and_is_told_why() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "a-key-that-is-long-enough\n").unwrap();
    let mut settings = settings("v1");
    settings.api_keys_file = Some(keys);
    let server = Server::start(settings).await;
    let response = sending(&server, Method::POST, "/predict").send().await;
    assert_eq!(response.unwrap().status(), 401);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_path_that_is_no_text_is_refused_in_json() {
    let server = Server::start(settings("v1")).await;
    for path in ["/v2/models/%FF", "/v2/models/sentiment/versions/%FF/ready"] {
        let request = server.ask.client.get(format!("{}{path}", server.ask.url));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400);
        let answer: Value = response.json().await.unwrap();
        let error = answer["error"].as_str().unwrap();
        assert!(error.contains("the path cannot be read"), "{error}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_large_body_for_which_there_is_no_room_is_turned_away_until_there_is() {
    let mut settings = settings("v1");
    settings.max_body_bytes = 60_000;
    settings.max_pending_bytes = 60_000;
    let server = Server::start(settings).await;
    let text = "fine ".repeat(8_000);
    let body = json!({ "text": text }).to_string();

    // Another request holds most of the room, and does not end.
    let mut other = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    other.write_all(head.as_bytes()).await.unwrap();
    let (most, rest) = body.split_at(body.len() - 1);
    other.write_all(most.as_bytes()).await.unwrap();
    until("no room", || async {
        server.ask.predict(&text).await.status() == 429
    })
    .await;
    let refused = server.ask.predict(&text).await;
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    // A small one needs none.
    assert_eq!(server.ask.predict("fine").await.status(), 200);

    other.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert_eq!(server.ask.predict(&text).await.status(), 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_no_http_is_refused_and_counted() {
    let server = Server::start(settings("v1")).await;
    let mut stream = TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap();
    stream.write_all(b"not http at all\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    until("counted", || async {
        let metrics = server.ask.client.get(format!("{}/metrics", server.ask.url));
        let text = metrics.send().await.unwrap().text().await.unwrap();
        text.contains(r#"model_server_errors_total{kind="unreadable_head"} 1"#)
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn one_blank_text_of_several_fails_only_itself() {
    let server = Server::start(settings("v1")).await;
    let ask = async |texts: Value| {
        let request = server
            .ask
            .client
            .post(format!("{}/predict", server.ask.url));
        let response = request.json(&json!({ "texts": texts })).send().await;
        let response = response.unwrap();
        (
            response.status().as_u16(),
            response.json::<Value>().await.unwrap(),
        )
    };
    let (status, answer) = ask(json!(["wonderful", " ", "awful"])).await;
    assert_eq!(status, 200, "{answer}");
    let predictions = &answer["predictions"];
    assert_eq!(predictions[0]["prediction"], "positive");
    assert!(predictions[1]["error"].as_str().unwrap().contains("blank"));
    assert_eq!(predictions[2]["prediction"], "negative");
    assert_eq!(ask(json!([" "])).await.0, 400);
    server.stop().await.unwrap();
}
