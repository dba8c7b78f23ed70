//! Being told to stop: unready at once, nobody cut, and an end within bounds.

use std::time::Duration;

use model_server::ServeError;
use reqwest::header;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::support::{Process, Server, settings, until};

async fn until_draining(server: &Process) {
    until("draining", || async {
        let (status, health) = server.ask.health().await;
        status == 503 && health["reason"].as_str().unwrap().starts_with("draining")
    })
    .await;
}

#[tokio::test]
async fn after_sigterm_it_is_unready_answers_what_arrives_and_exits_with_0() {
    let mut server = Process::start(&[("GRACE_SECONDS", "2")]).await;
    server.signal("TERM").await;
    until_draining(&server).await;
    let response = server.ask.predict("still there").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()[header::CONNECTION], "close");
    assert_eq!(server.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_at_once() {
    let mut server = Process::start(&[("GRACE_SECONDS", "3600")]).await;
    server.signal("TERM").await;
    until_draining(&server).await;
    server.signal("INT").await;
    assert_eq!(server.exit().await.code(), Some(0));
}

/// A request of which the server has only the beginning.
struct HalfSent {
    stream: TcpStream,
}

const BODY: &str = r#"{"text": "a fine film"}"#;

impl HalfSent {
    async fn to(server: &Server) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", server.port))
            .await
            .unwrap();
        let head = format!(
            "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            BODY.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        until("in flight", || async {
            server.ask.health().await.1["request_count"] == 1
        })
        .await;
        Self { stream }
    }

    async fn finish(mut self) -> String {
        self.stream.write_all(BODY.as_bytes()).await.unwrap();
        let mut answer = String::new();
        self.stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_grace_period() {
    let server = Server::start(settings("v1")).await;
    let request = HalfSent::to(&server).await;
    let port = server.port;
    let ended = tokio::spawn(server.stop());
    until("the port is closed", || async {
        TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
    let answer = request.finish().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    ended.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_by_the_hard_stop() {
    let mut settings = settings("v1");
    settings.hard_stop = Duration::from_millis(50);
    let server = Server::start(settings).await;
    let request = HalfSent::to(&server).await;
    let ended = server.stop().await;
    assert!(matches!(ended, Err(ServeError::HardStop(_))), "{ended:?}");
    drop(request);
}
