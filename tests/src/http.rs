//! A minimal HTTP client.

use anyhow::Context as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// The body of `http://ADDRESS/PATH`.
pub async fn get(address: &str, path: &str) -> anyhow::Result<String> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let answer = exchange(address, &request).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}

/// The response body of a POST of JSON.
pub async fn post_for_body(address: &str, path: &str, json: &str) -> anyhow::Result<String> {
    let answer = exchange(address, &post_request(address, path, "", json)).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
    Ok(body.to_owned())
}

/// The response status of a POST of JSON with one more header.
pub async fn post(address: &str, path: &str, header: &str, json: &str) -> anyhow::Result<u16> {
    let header = format!("{header}\r\n");
    let answer = exchange(address, &post_request(address, path, &header, json)).await?;
    let status = answer.split_whitespace().nth(1).context("no status")?;
    Ok(status.parse()?)
}

/// `headers`: whole lines, each with its end.
fn post_request(address: &str, path: &str, headers: &str, json: &str) -> String {
    let length = json.len();
    format!(
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{json}"
    )
}

async fn exchange(address: &str, request: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
