//! Limits and timeouts of connections.

use std::{sync::Arc, time::Duration};

use axum::routing::get;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    time,
};

use crate::support::{Server, TIMEOUT, settings};

const IDLE_TIMEOUT: Duration = Duration::from_secs(1);
const INCOMPLETE_HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nhos";
const LIVEZ_REQUEST: &[u8] = b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n";

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap()
}

/// Reads until the server closes the connection.
async fn read_to_close(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = time::timeout(TIMEOUT, stream.read_to_end(&mut all)).await;
    read.expect("the server closes the connection in time")
        .unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// Reads one response from a connection that stays open.
async fn read_response(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 4096];
    let read = time::timeout(TIMEOUT, stream.read(&mut buffer)).await;
    let length = read.expect("the server responds in time").unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

async fn server_with_short_idle_timeout() -> Server {
    let mut settings = settings("v1");
    settings.limits.connections.idle = IDLE_TIMEOUT;
    Server::start(settings).await
}

#[tokio::test]
async fn incomplete_head_closes_connection_after_idle_timeout() {
    let server = server_with_short_idle_timeout().await;
    let mut stream = connect(&server).await;
    stream.write_all(INCOMPLETE_HEAD).await.unwrap();
    read_to_close(&mut stream).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn idle_timeout_closes_only_unused_connection() {
    let server = server_with_short_idle_timeout().await;
    let mut stream = connect(&server).await;
    let began = time::Instant::now();
    while began.elapsed() < IDLE_TIMEOUT * 2 {
        stream.write_all(LIVEZ_REQUEST).await.unwrap();
        let response = read_response(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        time::sleep(IDLE_TIMEOUT / 4).await;
    }
    assert_eq!(read_to_close(&mut stream).await, "");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn incomplete_second_head_closes_connection() {
    let server = server_with_short_idle_timeout().await;
    let mut stream = connect(&server).await;
    let requests = [LIVEZ_REQUEST, INCOMPLETE_HEAD].concat();
    stream.write_all(&requests).await.unwrap();
    let responses = read_to_close(&mut stream).await;
    assert_eq!(responses.matches("HTTP/1.1 200").count(), 1, "{responses}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn incomplete_head_does_not_delay_shutdown() {
    let server = server_with_short_idle_timeout().await;
    let mut stream = connect(&server).await;
    stream.write_all(INCOMPLETE_HEAD).await.unwrap();
    let stopped = time::timeout(IDLE_TIMEOUT * 5, server.stop()).await;
    stopped.expect("the server stops in time").unwrap();
}

#[tokio::test]
async fn slow_request_outlives_idle_timeout() {
    let server = server_with_short_idle_timeout().await;
    let mut stream = connect(&server).await;
    let body = br#"{"text": "a fine film"}"#;
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    time::sleep(IDLE_TIMEOUT * 2).await;
    stream.write_all(body).await.unwrap();
    let response = read_response(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn client_that_reads_no_response_is_disconnected() {
    let server = server_with_short_idle_timeout().await;
    let mut stream = connect(&server).await;
    // Unread responses fill the socket buffers first, and then unread requests do.
    let requests = LIVEZ_REQUEST.repeat(1000);
    let write = async {
        loop {
            if stream.write_all(&requests).await.is_err() {
                break;
            }
        }
    };
    time::timeout(TIMEOUT, write)
        .await
        .expect("the server disconnects in time");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn slow_reader_outlives_idle_timeout() {
    let mut settings = settings("v1");
    settings.limits.connections.idle = IDLE_TIMEOUT;
    // The answer is read over three times the timeout.
    let server = Server::start_wrapped(settings, |router| {
        router.route("/large", get(|| async { vec![b' '; LARGE] }))
    })
    .await;
    let mut stream = connect(&server).await;
    let request = b"GET /large HTTP/1.1\r\nhost: test\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut buffer = vec![0; LARGE / 32];
    let mut read = 0;
    while read < LARGE {
        time::sleep(IDLE_TIMEOUT / 10).await;
        let piece = time::timeout(TIMEOUT, stream.read_exact(&mut buffer)).await;
        read += piece.expect("the server sends in time").unwrap();
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn oversized_head_gets_431() {
    let server = Server::start(settings("v1")).await;
    let mut stream = connect(&server).await;
    let head = format!(
        "GET /livez HTTP/1.1\r\nx-large: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let response = read_response(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 431"), "{response}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn connection_over_limit_waits_for_free_slot() {
    let mut settings = settings("v1");
    // `Server::start` keeps the connection of its health check open, which leaves one for the test.
    settings.limits.connections.connections = 2;
    let server = Server::start(settings).await;
    let mut first = connect(&server).await;
    first.write_all(LIVEZ_REQUEST).await.unwrap();
    read_response(&mut first).await;
    let mut second = connect(&server).await;
    second.write_all(LIVEZ_REQUEST).await.unwrap();
    let mut buffer = [0; 64];
    let early = time::timeout(Duration::from_millis(200), second.read(&mut buffer)).await;
    assert!(early.is_err(), "a connection over the limit was served");
    drop(first);
    let response = read_response(&mut second).await;
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    drop(second);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn idle_connection_does_not_delay_shutdown() {
    let server = Server::start(settings("v1")).await;
    let mut stream = connect(&server).await;
    stream.write_all(LIVEZ_REQUEST).await.unwrap();
    read_response(&mut stream).await;
    let stopped = time::timeout(Duration::from_secs(5), server.stop()).await;
    stopped.expect("the server stops in time").unwrap();
    assert_eq!(read_to_close(&mut stream).await, "");
}

/// A request that a server has received and does not answer yet. Resolves when the server drops it.
type HeldRequest = oneshot::Receiver<()>;

const HELD_REQUEST: &[u8] = b"GET /held HTTP/1.1\r\nhost: test\r\n\r\n";
const PROBE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The bytes of an answer that the socket buffers cannot hold.
const LARGE: usize = 32 << 20;

/// Returns a server with a route `/held`, which answers with `length` bytes when the test notifies it.
async fn server_with_held_route(
    length: usize,
) -> (Server, Arc<Notify>, mpsc::Receiver<HeldRequest>) {
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let (arrived, arrivals) = mpsc::channel(1);
    let server = Server::start_wrapped(settings("v1"), move |router| {
        let held = get(async move || {
            let (_in_flight, dropped) = oneshot::channel();
            arrived.send(dropped).await.unwrap();
            released.notified().await;
            vec![b'a'; length]
        });
        router.route("/held", held)
    })
    .await;
    (server, release, arrivals)
}

async fn send_held_request(
    server: &Server,
    arrivals: &mut mpsc::Receiver<HeldRequest>,
) -> (TcpStream, HeldRequest) {
    let mut stream = connect(server).await;
    stream.write_all(HELD_REQUEST).await.unwrap();
    let arrived = time::timeout(TIMEOUT, arrivals.recv()).await;
    let held = arrived.expect("the request arrives in time").unwrap();
    (stream, held)
}

#[tokio::test]
async fn half_closed_client_gets_its_answer() {
    let (server, release, mut arrivals) = server_with_held_route(8).await;
    let (mut stream, _held) = send_held_request(&server, &mut arrivals).await;
    stream.shutdown().await.unwrap();
    // The server has noticed the close, and asks whether the client is still there.
    read_exactly(&mut stream, PROBE).await;
    release.notify_one();
    let response = read_to_close(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(response.ends_with("aaaaaaaa"), "{response}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn probes_of_half_closed_pipeline_stand_between_whole_answers() {
    const REQUESTS: usize = 3;
    let (server, release, mut arrivals) = server_with_held_route(LARGE).await;
    let mut stream = connect(&server).await;
    stream
        .write_all(&HELD_REQUEST.repeat(REQUESTS))
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    for _ in 0..REQUESTS {
        let arrived = time::timeout(TIMEOUT, arrivals.recv()).await;
        let _held = arrived.expect("the request arrives in time").unwrap();
        // The request is not answered, so the server asks whether the client is still there.
        read_exactly(&mut stream, PROBE).await;
        release.notify_one();
        read_exactly(&mut stream, b"HTTP/1.1 200 OK\r\n").await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        read_exactly(&mut stream, &vec![b'a'; LARGE]).await;
    }
    assert_eq!(read_to_close(&mut stream).await, "");
    server.stop().await.unwrap();
}

async fn read_exactly(stream: &mut TcpStream, expected: &[u8]) {
    let mut received = vec![0; expected.len()];
    let read = time::timeout(TIMEOUT, stream.read_exact(&mut received)).await;
    read.expect("the server sends in time").unwrap();
    let same = received == expected;
    let start = String::from_utf8_lossy(&received[..received.len().min(100)]);
    assert!(same, "other bytes: {start}...");
}

#[tokio::test]
async fn request_is_dropped_when_its_client_leaves() {
    let (server, _release, mut arrivals) = server_with_held_route(8).await;
    for reset in [false, true] {
        let (stream, held) = send_held_request(&server, &mut arrivals).await;
        if reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        let dropped = time::timeout(TIMEOUT, held).await;
        dropped
            .expect("the server drops the request in time")
            .unwrap_err();
    }
    server.stop().await.unwrap();
}
