//! A minimal HTTP client that opens a connection per request.

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Returns the response body of a GET. Any status counts as success.
pub async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let response = exchange(address, &request).await?;
    let (_, body) = response
        .split_once("\r\n\r\n")
        .context("the response has no body")?;
    Ok(body.to_owned())
}

/// Returns the response body of a POST of JSON. Any status counts as success.
pub async fn post_for_body(address: &str, path: &str, json: &str) -> anyhow::Result<String> {
    let response = exchange(address, &post_request(address, path, "", json)).await?;
    let (_, body) = response
        .split_once("\r\n\r\n")
        .context("the response has no body")?;
    Ok(body.to_owned())
}

/// Returns the response status of a POST of JSON with an additional header (`Name: value`).
pub async fn post(address: &str, path: &str, header: &str, json: &str) -> anyhow::Result<u16> {
    let header = format!("{header}\r\n");
    let response = exchange(address, &post_request(address, path, &header, json)).await?;
    let status = response
        .split_whitespace()
        .nth(1)
        .context("the response has no status")?;
    Ok(status.parse()?)
}

/// `headers`: whole lines, each with its line end (CRLF).
fn post_request(address: &str, path: &str, headers: &str, json: &str) -> String {
    let length = json.len();
    format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{json}"
    )
}

async fn exchange(address: &str, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}
