//! What passes the router, and what it answers itself.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use deployer::{evidence::request::Ending, ports::Repeat};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Result, Toys, ensure_own_error};

#[tokio::test(flavor = "multi_thread")]
async fn router_errors_are_json() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    let long = "x".repeat(40_000);
    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a b/c\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n"), 414),
        (
            format!("GET / HTTP/1.1\r\nHost: a\r\nx: {long}\r\n\r\n"),
            431,
        ),
        ("GET / HTTP/9.9\r\nHost: a\r\n\r\n".to_owned(), 505),
        (
            "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            405,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: odd\r\n\r\n".to_owned(),
            501,
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99000000\r\n\r\n".to_owned(),
            413,
        ),
        (
            "GET /.blue-green/error HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_owned(),
            404,
        ),
    ] {
        let answer = toys.send(&request).await?;
        ensure_own_error(&answer, status).with_context(|| request[..20].to_owned())?;
    }
    // A color's own errors are passed on as they are.
    let answer = toys.ask("GET", "/500", "").await?;
    ensure!(answer.ends_with("\r\n\r\nok"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_path_shadow_gets_its_requests() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    for _ in 0..2 {
        for path in ["/shadow", "/copied", "/copies/a", "/active", "/blue/a"] {
            let answer = toys.ask("POST", path, "").await?;
            ensure!(answer.ends_with("\r\n\r\nok"), "{path}: {answer}");
        }
        // The same while green gets copies.
        toys.set_flag("shadow")?;
    }
    for path in ["/shadow", "/copied", "/copies/a", "/active", "/blue/a"] {
        ensure!(toys.blue.received(path).len() == 2, "{path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_pass_the_router() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    let long = "x".repeat(30_000);
    let headers = format!("x-long: {long}\r\napi-key: 1\r\napi_key: 2\r\n");
    toys.ask("GET", "/fine", &headers).await?;
    let received = toys.blue.received("/fine");
    let [request] = &received[..] else {
        anyhow::bail!("{} requests", received.len());
    };
    ensure!(request.header("x-long") == Some(long.as_str()));
    ensure!(request.header("api-key") == Some("1"));
    ensure!(request.header("api_key").is_none());
    ensure!(
        request.header("host") == Some("test:1234"),
        "{}",
        request.head
    );
    let answer = toys.ask("GET", "/large-head", "").await?;
    ensure!(answer.starts_with("HTTP/1.1 200 "), "{}", &answer[..100]);
    Ok(())
}

/// Sends a request with a body of this size. Returns the answer.
async fn upload(toys: &Toys, size: usize) -> Result<String> {
    let mut stream = TcpStream::connect(toys.stack.router_address()).await?;
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let (mut reader, mut writer) = stream.split();
    let mut answer = String::new();
    // The router may answer before it has the whole body, and then close.
    let body = vec![b'x'; size];
    let (sent, read) = tokio::join!(writer.write_all(&body), reader.read_to_string(&mut answer));
    let broken = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        )
    };
    sent.or_else(|error| if broken(&error) { Ok(()) } else { Err(error) })?;
    read?;
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn body_passes_or_gets_503_if_it_cannot_be_spilled() -> Result {
    const LARGEST: usize = 64 * 1024 * 1024;

    let toys = Toys::start(Repeat::Always).await?;
    let answer = upload(&toys, LARGEST).await?;
    ensure!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let received = toys.blue.received("/upload");
    ensure!(
        received.len() == 1 && received[0].body == LARGEST,
        "{received:?}"
    );
    ensure_own_error(&upload(&toys, LARGEST + 1).await?, 413)?;

    // As with a full disk: nginx cannot write the body.
    let bodies = toys.stack.path("run/bodies");
    fs::remove_dir_all(&bodies)?;
    fs::write(&bodies, "")?;
    let answer = upload(&toys, 1024 * 1024).await?;
    ensure_own_error(&answer, 503)?;
    ensure!(answer.contains("\r\nRetry-After: 1\r\n"), "{answer}");
    // A small body needs no file.
    let answer = upload(&toys, 1024).await?;
    ensure!(answer.ends_with("\r\n\r\nok"), "{answer}");

    // The monitor alerts about requests that end like this with a status from 500 on.
    let log = toys.ports.request_log.as_deref().context("no log")?;
    let started = Instant::now();
    let failed = loop {
        let requests = log.read(None).await?.requests;
        if let Some(failed) = requests.into_iter().find(|request| request.status == 503) {
            break failed;
        }
        ensure!(
            started.elapsed().as_secs() < 30,
            "the request is not logged"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    ensure!(
        matches!(failed.ending(), Some((_, Ending::ByRouter))),
        "{failed:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_that_ends_by_closing_passes_as_it_comes() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    let mut stream = TcpStream::connect(toys.stack.router_address()).await?;
    let request = "GET /until-close HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let mut part = [0; 4096];
    while !answer.contains("beginning") {
        let read = stream.read(&mut part);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        let length = read.context("the router holds the beginning back")??;
        ensure!(length > 0, "{answer}");
        answer += std::str::from_utf8(&part[..length])?;
    }
    ensure!(!answer.contains(" and end"), "{answer}");
    toys.blue.end_answers();
    stream.read_to_string(&mut answer).await?;
    ensure!(answer.contains(" and end"), "{answer}");
    Ok(())
}

/// The paths in the router's log, once it has the path `last`.
async fn logged_paths(toys: &Toys, last: &str) -> Result<Vec<String>> {
    let log = toys.stack.path("run/logs/access.log");
    let read = async {
        loop {
            let text = fs::read_to_string(&log).unwrap_or_default();
            let lines = text
                .lines()
                .flat_map(serde_json::from_str::<serde_json::Value>);
            let paths: Vec<String> = lines
                .filter_map(|line| Some(line["uri"].as_str()?.to_owned()))
                .collect();
            if paths.iter().any(|path| path == last) {
                return paths;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let read = tokio::time::timeout(Duration::from_secs(30), read).await;
    read.with_context(|| format!("no request for {last} is logged within 30 s"))
}

#[tokio::test(flavor = "multi_thread")]
async fn health_probes_are_not_logged_whether_they_pass_or_fail() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    let passed = toys.ask("GET", "/health", "").await?;
    ensure!(passed.starts_with("HTTP/1.1 200 "), "{passed}");
    toys.blue.stop();
    toys.green.stop();
    let failed = toys.ask("GET", "/health", "").await?;
    ensure_own_error(&failed, 502)?;
    let failed = toys.ask("GET", "/health?from=balancer", "").await?;
    ensure_own_error(&failed, 502)?;
    ensure_own_error(&toys.ask("GET", "/last", "").await?, 502)?;
    let paths = logged_paths(&toys, "/last").await?;
    ensure!(paths == ["/last"], "logged: {paths:?}");
    Ok(())
}
