//! Requests `/health` from a running server, for the health check of a container that has no curl.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use axum::http::Uri;
use clap::Args;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time,
};

use crate::config::Address;

/// A server that takes longer to answer is unhealthy.
const TIMEOUT: Duration = Duration::from_secs(2);

/// At most this much of a response is read.
const MAX_RESPONSE_BYTES: u64 = 64 * 1024;

/// Why the health check failed.
#[derive(Debug, Error)]
pub enum HealthcheckError {
    /// The URL is invalid.
    #[error("invalid URL {0:?}; expected one such as http://127.0.0.1:8081/health")]
    BadUrl(String),
    /// The server cannot be reached.
    #[error("cannot reach {url}: {source}")]
    Unreachable {
        /// The requested URL.
        url: Uri,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The server accepted the connection and did not answer.
    #[error("{0} did not answer within {TIMEOUT:?}")]
    Timeout(Uri),
    /// The server is unhealthy.
    #[error("{url} answered {answer}")]
    Unhealthy {
        /// The requested URL.
        url: Uri,
        /// The status line and the body.
        answer: String,
    },
}

/// What to check.
#[derive(Debug, Clone, Args)]
pub struct HealthcheckArguments {
    /// URL to request [default: /health at HOST and PORT]
    #[arg(long, value_name = "URL")]
    url: Option<Uri>,

    #[command(flatten)]
    address: Address,
}

impl HealthcheckArguments {
    fn resolve(self) -> Result<Uri, HealthcheckError> {
        let Address { host, port } = self.address;
        // A server that listens on all addresses is reached by the loopback address.
        let host = match host {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            other => other,
        };
        let own = format!("http://{}/health", SocketAddr::new(host, port));
        self.url.map_or_else(
            || {
                own.parse()
                    .map_err(|_| HealthcheckError::BadUrl(own.clone()))
            },
            Ok,
        )
    }
}

/// Sends one request. Returns the body if the server is healthy.
pub async fn healthcheck(arguments: HealthcheckArguments) -> Result<String, HealthcheckError> {
    let url = arguments.resolve()?;
    let answer = time::timeout(TIMEOUT, get(&url))
        .await
        .map_err(|_| HealthcheckError::Timeout(url.clone()))??;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.lines().next().unwrap_or("").trim();
    if status.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(HealthcheckError::Unhealthy {
            url,
            answer: format!("{status:?} {body}"),
        })
    }
}

/// Returns the whole response to a GET request, head and body, as text.
async fn get(url: &Uri) -> Result<String, HealthcheckError> {
    let (Some("http"), Some(host)) = (url.scheme_str(), url.host()) else {
        return Err(HealthcheckError::BadUrl(url.to_string()));
    };
    let port = url.port_u16().unwrap_or(80);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    // With HTTP/1.0, the response is not chunked, and ends when the connection closes.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n");
    let ask = async {
        let mut stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream
            .take(MAX_RESPONSE_BYTES)
            .read_to_end(&mut answer)
            .await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    ask.await.map_err(|source| HealthcheckError::Unreachable {
        url: url.clone(),
        source,
    })
}
