//! What a client may ask of a connection, and how connections end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::support::{BOUND, Server, settings};

const IDLE: Duration = Duration::from_secs(1);
const HALF_A_HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nhos";
const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nhost: test\r\n\r\n";

async fn connect(server: &Server) -> TcpStream {
    TcpStream::connect(("127.0.0.1", server.port))
        .await
        .unwrap()
}

/// Everything that still comes until the server closes the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    let read = time::timeout(BOUND, stream.read_to_end(&mut all)).await;
    read.expect("closed in time").unwrap();
    String::from_utf8_lossy(&all).into_owned()
}

/// One answer of a connection that stays open.
async fn answer(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 4096];
    let read = time::timeout(BOUND, stream.read(&mut buffer)).await;
    let length = read.expect("an answer in time").unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

async fn impatient() -> Server {
    let mut settings = settings("v1");
    settings.connections.idle = IDLE;
    Server::start(settings).await
}

#[tokio::test]
async fn a_head_that_does_not_come_is_not_waited_for() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    stream.write_all(HALF_A_HEAD).await.unwrap();
    rest(&mut stream).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_one_in_use_is_not() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    let began = time::Instant::now();
    while began.elapsed() < IDLE * 2 {
        stream.write_all(LIVEZ).await.unwrap();
        let answer = answer(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        time::sleep(IDLE / 4).await;
    }
    assert_eq!(rest(&mut stream).await, "");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_head_of_a_second_request_is_not_waited_for_either() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    let one_and_a_half = [LIVEZ, HALF_A_HEAD].concat();
    stream.write_all(&one_and_a_half).await.unwrap();
    let answers = rest(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 1, "{answers}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_head_that_does_not_come_does_not_hold_up_the_end() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    stream.write_all(HALF_A_HEAD).await.unwrap();
    let ended = time::timeout(IDLE * 5, server.stop()).await;
    ended.expect("ended soon").unwrap();
}

#[tokio::test]
async fn a_request_may_take_longer_than_a_connection_may_be_idle() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    let body = br#"{"text": "a fine film"}"#;
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    time::sleep(IDLE * 2).await;
    stream.write_all(body).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_cut() {
    let server = impatient().await;
    let mut stream = connect(&server).await;
    // Answers pile up until nothing more fits between the two, and then requests do.
    let requests = LIVEZ.repeat(1000);
    let write = async {
        loop {
            if stream.write_all(&requests).await.is_err() {
                break;
            }
        }
    };
    time::timeout(BOUND, write).await.expect("cut in time");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(settings("v1")).await;
    let mut stream = connect(&server).await;
    let head = format!(
        "GET /livez HTTP/1.1\r\nx-large: {}\r\n\r\n",
        "a".repeat(200_000)
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = answer(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_beyond_the_limit_waits_for_another_to_close() {
    let mut settings = settings("v1");
    // One more: the client that waits for the start keeps its own.
    settings.connections.connections = 2;
    let server = Server::start(settings).await;
    let mut first = connect(&server).await;
    first.write_all(LIVEZ).await.unwrap();
    answer(&mut first).await;
    let mut second = connect(&server).await;
    second.write_all(LIVEZ).await.unwrap();
    let mut buffer = [0; 64];
    let early = time::timeout(Duration::from_millis(200), second.read(&mut buffer)).await;
    assert!(early.is_err(), "served beyond the limit");
    drop(first);
    let answer = answer(&mut second).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(second);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_the_end() {
    let server = Server::start(settings("v1")).await;
    let mut stream = connect(&server).await;
    stream.write_all(LIVEZ).await.unwrap();
    answer(&mut stream).await;
    let ended = time::timeout(Duration::from_secs(5), server.stop()).await;
    ended.expect("ended at once").unwrap();
    assert_eq!(rest(&mut stream).await, "");
}
