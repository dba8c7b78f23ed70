//! Shutdown: readiness, the drain, the grace period, and the hard stop.

use std::time::Duration;

use model_server::ServeError;
use reqwest::header;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Server, ServerProcess, settings, wait_until};

async fn wait_until_draining(server: &ServerProcess) {
    wait_until("the server drains", || async {
        let (status, health) = server.client.health().await;
        status == 503 && health["reason"].as_str().unwrap().starts_with("draining")
    })
    .await;
}

#[tokio::test]
async fn draining_server_answers_requests_then_exits_with_0() {
    let mut server = ServerProcess::start(&[("GRACE_SECONDS", "2")]).await;
    server.signal("TERM").await;
    wait_until_draining(&server).await;
    let response = server.client.predict("fine").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CONNECTION], "close");
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

#[tokio::test]
async fn second_signal_ends_grace_period() {
    let mut server = ServerProcess::start(&[("GRACE_SECONDS", "3600")]).await;
    server.signal("TERM").await;
    wait_until_draining(&server).await;
    server.signal("INT").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
}

/// A request whose head is sent and whose body is not.
struct IncompleteRequest {
    stream: TcpStream,
}

const BODY: &str = r#"{"text": "a fine film"}"#;

impl IncompleteRequest {
    async fn send(server: &Server) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))
            .await
            .unwrap();
        let head = format!(
            "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            BODY.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        wait_until("the request is in flight", || async {
            server.client.health().await.1["request_count"] == 1
        })
        .await;
        Self { stream }
    }

    async fn complete(mut self) -> String {
        self.stream.write_all(BODY.as_bytes()).await.unwrap();
        let mut response = String::new();
        self.stream.read_to_string(&mut response).await.unwrap();
        response
    }
}

#[tokio::test]
async fn request_in_flight_outlives_grace_period() {
    let server = Server::start(settings("v1")).await;
    let request = IncompleteRequest::send(&server).await;
    let port = server.port;
    let stopped = tokio::spawn(server.stop());
    wait_until("the port is closed", || async {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
    let response = request.complete().await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    stopped.await.unwrap().unwrap();
}

#[tokio::test]
async fn hard_stop_aborts_incomplete_request() {
    let mut settings = settings("v1");
    settings.drain.hard_stop = Duration::from_millis(50);
    let server = Server::start(settings).await;
    let request = IncompleteRequest::send(&server).await;
    let stopped = server.stop().await;
    assert!(
        matches!(stopped, Err(ServeError::HardStop(_))),
        "{stopped:?}"
    );
    drop(request);
}
