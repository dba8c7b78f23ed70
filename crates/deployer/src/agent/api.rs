//! The agent's HTTP interface (`cluster/message.rs`).

use std::{
    fs::File,
    future::Future,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path as UrlPath, State},
    http::{self, HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use tokio::task::spawn_blocking;

use crate::{
    adapters::http::{cause, client},
    agent::keeper::Keeper,
    cluster::{
        Truth,
        message::{Prepare, Release, RouterReport, Undecided},
    },
    internal_api::{ApiError, JsonBody},
    ports::PortError,
};

/// The most bytes of a log in one answer, which the deployer waits for at most 0.5 s.
const MAX_LOG: u64 = 1 << 20;
/// How long the control port may take to answer a request that is passed on to a server.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(30);
/// Becomes `Authorization` of a request to the control port: the agent's own token takes that header.
const CONTROL_AUTHORIZATION: &str = "x-control-authorization";

/// What the routes share.
#[derive(Clone)]
pub(super) struct Api {
    keeper: Arc<Keeper>,
    /// The directory of nginx's logs.
    logs: PathBuf,
    control: String,
    client: reqwest::Client,
}

impl Api {
    pub(super) fn new(
        keeper: Arc<Keeper>,
        logs: PathBuf,
        control: &str,
    ) -> Result<Self, PortError> {
        Ok(Self {
            keeper,
            logs,
            control: control.trim_end_matches('/').to_owned(),
            client: client(CONTROL_TIMEOUT)?,
        })
    }

    /// Returns the routes, without what protects them.
    pub(super) fn routes(self) -> Router {
        Router::new()
            .route("/state", get(state))
            .route("/prepare", post(prepare))
            .route("/undecided", post(undecided))
            .route("/release", post(release))
            .route("/apply", post(apply))
            .route("/log/{name}", get(log))
            .route("/control/{*path}", get(control).post(control))
            .with_state(self)
    }
}

async fn state(State(api): State<Api>) -> Response {
    answered(async move { api.keeper.report().await }).await
}

async fn prepare(State(api): State<Api>, JsonBody(message): JsonBody<Prepare>) -> Response {
    answered(async move { api.keeper.prepare(&message).await }).await
}

async fn undecided(State(api): State<Api>, JsonBody(message): JsonBody<Undecided>) -> Response {
    answered(async move { api.keeper.undecided(message).await }).await
}

async fn release(State(api): State<Api>, JsonBody(message): JsonBody<Release>) -> Response {
    answered(async move { api.keeper.release(message).await }).await
}

async fn apply(State(api): State<Api>, JsonBody(truth): JsonBody<Truth>) -> Response {
    answered(async move { api.keeper.apply(&truth).await }).await
}

/// Answers with a report. The work goes on if the client disconnects, so that no flag is half written.
async fn answered(report: impl Future<Output = RouterReport> + Send + 'static) -> Response {
    match tokio::spawn(report).await {
        Ok(report) if report.refusal.is_some() => {
            (StatusCode::CONFLICT, Json(report)).into_response()
        }
        Ok(report) => Json(report).into_response(),
        Err(error) => {
            let message = format!("the agent failed: {error}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

async fn log(
    State(api): State<Api>,
    UrlPath(name): UrlPath<String>,
    uri: Uri,
) -> Result<Response, ApiError> {
    if !matches!(name.as_str(), "access" | "error" | "shadow") {
        let message = format!("there is no log {name:?}: use access, error, or shadow");
        return Err(ApiError::new(StatusCode::NOT_FOUND, message));
    }
    let after = after(&uri).ok_or_else(|| {
        ApiError::invalid("`after` must be a number of bytes, as in /log/access?after=4096")
    })?;
    let path = api.logs.join(format!("{name}.log"));
    let read = spawn_blocking(move || read_log(&path, after));
    let failed = |error: &dyn std::fmt::Display| {
        let message = format!("cannot read the log {name}: {error}");
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    let (bytes, length) = read
        .await
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    let headers = [
        ("x-log-length", length.to_string()),
        ("content-type", "text/plain; charset=utf-8".to_owned()),
    ];
    Ok((headers, bytes).into_response())
}

/// Returns the byte from which on a log is wanted; `None` if it is not a number.
fn after(uri: &Uri) -> Option<u64> {
    let mut pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    match pairs.find(|(key, _)| key == "after") {
        Some((_, value)) => value.parse().ok(),
        None => Some(0),
    }
}

/// Returns the bytes from `after` on, and the length of the log. A log that is shorter was emptied: there are no bytes, and
/// the length tells.
fn read_log(path: &Path, after: u64) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if after < length {
        file.seek(SeekFrom::Start(after))?;
        file.take(MAX_LOG).read_to_end(&mut bytes)?;
    }
    Ok((bytes, length))
}

/// Passes a request on to the control port of the router's nginx.
async fn control(
    State(api): State<Api>,
    UrlPath(path): UrlPath<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let query = uri.query().map(|query| format!("?{query}"));
    let url = format!("{}/{path}{}", api.control, query.unwrap_or_default());
    let mut request = api.client.request(method, &url).body(body);
    for name in [header::CONTENT_TYPE, header::ACCEPT, header::USER_AGENT] {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    if let Some(value) = headers.get(CONTROL_AUTHORIZATION) {
        request = request.header(header::AUTHORIZATION, value);
    }
    let failed = |error: reqwest::Error| {
        let message = format!(
            "the router's nginx does not answer: {url}: {}",
            cause(&error)
        );
        ApiError::new(StatusCode::BAD_GATEWAY, message)
    };
    let answer = request.send().await.map_err(failed)?;
    let (parts, body) = http::Response::from(answer).into_parts();
    let content_type = parts.headers.get(header::CONTENT_TYPE).cloned();
    // Passed on as it comes, so that the agent never holds a large answer.
    let mut response = (parts.status, Body::new(body)).into_response();
    if let Some(value) = content_type {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_read_from_the_byte_on_and_an_emptied_log_tells_its_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        for (after, expected) in [(0, "one\ntwo\n"), (4, "two\n"), (8, ""), (9, "")] {
            let (bytes, length) = read_log(&path, after).unwrap();
            assert_eq!(
                (String::from_utf8(bytes).unwrap().as_str(), length),
                (expected, 8)
            );
        }
    }

    #[test]
    fn log_is_wanted_from_its_beginning_unless_the_query_names_a_byte() {
        let wanted = |uri: &str| after(&uri.parse().unwrap());
        assert_eq!(wanted("/log/access"), Some(0));
        assert_eq!(wanted("/log/access?after=12"), Some(12));
        assert_eq!(wanted("/log/access?after=-1"), None);
    }

    #[test]
    fn answer_with_a_log_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        // A sparse file, which takes no disk space.
        File::create(&path).unwrap().set_len(MAX_LOG + 2).unwrap();
        let (bytes, length) = read_log(&path, 1).unwrap();
        assert_eq!((bytes.len() as u64, length), (MAX_LOG, MAX_LOG + 2));
    }
}
