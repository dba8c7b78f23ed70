//! Probes model servers over HTTP.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue, USER_AGENT};
use serde_json::Value;

use crate::{
    adapters::{
        generated::read_stream,
        load::{self, Answers},
        user_agent,
        user_agent::UserAgent,
    },
    color::Color,
    config::{ProbeKind, Settings, StreamSettings},
    evidence::{
        load::{LoadPlan, LoadResult},
        stream::text_of_document,
    },
    examples::Example,
    ports::{PortError, Prediction, Probe, Target},
    release::Health,
};

/// A larger answer is an error of its server.
const MAX_ANSWER: usize = 16 << 20;

/// Probes over HTTP. Predictions keep connections open.
pub(super) struct HttpProbe {
    client: reqwest::Client,
    /// Opens a connection for each health check. A kept one would lead to the same process of a server again and again,
    /// and would not show that the server accepts no more connections.
    health_client: reqwest::Client,
    blue: String,
    green: String,
    control: String,
    public: String,
    health_path: String,
    predict_path: String,
    label: String,
    confidence: String,
    kind: ProbeKind,
    stream: StreamSettings,
    api_key_file: Option<PathBuf>,
    user_agent: Arc<UserAgent>,
}

impl HttpProbe {
    pub(super) fn new(settings: &Settings, user_agent: Arc<UserAgent>) -> Result<Self, PortError> {
        Ok(Self {
            client: client(settings.probe.timeout)?,
            health_client: build(
                builder(settings.probe.timeout)
                    .no_proxy()
                    .pool_max_idle_per_host(0),
            )?,
            blue: settings.blue.url.clone(),
            green: settings.green.url.clone(),
            control: settings.router.control.clone(),
            public: settings.router.url.clone(),
            health_path: settings.probe.health_path.clone(),
            predict_path: settings.probe.predict_path.clone(),
            label: settings.probe.label.clone(),
            confidence: settings.probe.confidence.clone(),
            kind: settings.probe.kind,
            stream: settings.probe.stream.clone(),
            api_key_file: settings.probe.api_key_file.clone(),
            user_agent,
        })
    }

    /// The authorization header. The key is read each time, because keys change while `deployer monitor` runs.
    fn authorization(&self) -> Result<Option<HeaderValue>, PortError> {
        let Some(path) = &self.api_key_file else {
            return Ok(None);
        };
        let shown = format!("the API key ({}, probe.api_key_file)", path.display());
        let text = std::fs::read_to_string(path)
            .map_err(|error| PortError::of_file(&error, format!("{shown}: {error}")))?;
        let invalid = |what: &str| PortError::Invalid(format!("{shown}: {what}"));
        let key = text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .ok_or_else(|| invalid("the file has none"))?;
        let mut header = HeaderValue::try_from(format!("Bearer {key}"))
            .map_err(|_| invalid("expected visible ASCII characters"))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    /// The headers of a prediction: authorization, and the user agent by which the router's log tells it from clients'.
    fn headers(&self) -> Result<HeaderMap, PortError> {
        let mut headers = HeaderMap::new();
        let user_agent = HeaderValue::try_from(self.user_agent.get())
            .map_err(|error| PortError::Invalid(format!("the user agent: {error}")))?;
        headers.insert(USER_AGENT, user_agent);
        if let Some(authorization) = self.authorization()? {
            headers.insert(AUTHORIZATION, authorization);
        }
        Ok(headers)
    }

    /// Sends a request, and reads its stream.
    async fn predict_stream(
        &self,
        request: reqwest::RequestBuilder,
        shown: &str,
    ) -> Result<Prediction, PortError> {
        let StreamSettings {
            max_silence,
            max_duration,
            ..
        } = self.stream;
        let began = tokio::time::Instant::now();
        // The stream's own limits end first, and say which of them it was.
        let request = request.timeout(max_silence + max_duration * 2).send();
        let Ok(response) = tokio::time::timeout(max_silence, request).await else {
            let limit = humantime::format_duration(max_silence);
            return Err(PortError::TimedOut(format!(
                "{shown}: no answer began within {limit} (probe.stream.max_silence)"
            )));
        };
        let response = response.map_err(|error| no_answer(&error, &format!("{shown} failed")))?;
        let status = response.status().as_u16();
        if !(200..300).contains(&status) {
            let body = response.text().await.unwrap_or_default();
            return Err(refused(shown, status, &body));
        }
        let (head, body) = hyper::Response::<reqwest::Body>::from(response).into_parts();
        let answer = read_stream(&self.stream, began, &head.headers, body)
            .await
            .map_err(|failure| PortError::BadAnswer(format!("{shown}: {failure}")))?;
        Ok(Prediction {
            label: Some(answer.text),
            confidence: None,
            took: answer.times.took,
            stream: Some(answer.times),
        })
    }

    fn base(&self, target: Target) -> String {
        match target {
            Target::Server(Color::Blue) => self.blue.clone(),
            Target::Server(Color::Green) => self.green.clone(),
            Target::ThroughRouter(color) => format!("{}/{color}", self.control),
            Target::Public => self.public.clone(),
        }
    }
}

#[async_trait]
impl Probe for HttpProbe {
    async fn health(&self, target: Target) -> Result<Health, PortError> {
        let url = format!("{}{}", self.base(target), self.health_path);
        let request = format!("GET {url}");
        let (status, body) = answer(self.health_client.get(&url), &request).await?;
        if status == 200 {
            // A server that answers 200 with another body is healthy and reports nothing.
            Ok(read_health(
                &serde_json::from_str(&body).unwrap_or_default(),
            ))
        } else {
            Err(refused(&request, status, &body))
        }
    }

    async fn predict(&self, target: Target, example: &Example) -> Result<Prediction, PortError> {
        let url = format!("{}{}", self.base(target), self.predict_path);
        let shown = format!("POST {url}");
        let request = self
            .client
            .post(&url)
            .header("content-type", "application/json")
            .headers(self.headers()?)
            .body(example.body.clone());
        if self.kind.is_streamed() {
            return self.predict_stream(request, &shown).await;
        }
        let began = Instant::now();
        let (status, body) = answer(request, &shown).await?;
        let took = began.elapsed();
        if !(200..300).contains(&status) {
            return Err(refused(&shown, status, &body));
        }
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        if self.kind.generates() {
            let text = text_of_document(&body)
                .map_err(|failure| PortError::BadAnswer(format!("{shown}: {failure}")))?;
            return Ok(Prediction {
                label: Some(text),
                confidence: None,
                took,
                stream: None,
            });
        }
        Ok(Prediction {
            stream: None,
            label: label_in(&body, &self.label),
            confidence: body.pointer(&self.confidence).and_then(Value::as_f64),
            took,
        })
    }

    async fn load(
        &self,
        target: Target,
        examples: Arc<[Example]>,
        plan: LoadPlan,
    ) -> Result<LoadResult, PortError> {
        let url = format!("{}{}", self.base(target), self.predict_path);
        let answers = Answers {
            kind: self.kind,
            stream: self.stream.clone(),
        };
        load::generate(&url, &examples, self.headers()?, plan, answers).await
    }
}

/// The label at a JSON pointer: a string, or a number or boolean as text.
fn label_in(body: &Value, place: &str) -> Option<String> {
    match body.pointer(place)? {
        Value::String(text) => Some(text.clone()),
        value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Creates a client whose requests end within `timeout`.
pub(crate) fn client(timeout: Duration) -> Result<reqwest::Client, PortError> {
    // The servers are near: a proxy would not reach them.
    build(builder(timeout).no_proxy())
}

/// Creates a client that trusts servers with certificates of `root` only.
pub(super) fn client_with_root(
    timeout: Duration,
    root: reqwest::Certificate,
) -> Result<reqwest::Client, PortError> {
    build(builder(timeout).no_proxy().tls_certs_only([root]))
}

/// Creates a client for addresses outside, which may use a proxy.
pub(super) fn client_for_the_outside(timeout: Duration) -> Result<reqwest::Client, PortError> {
    build(builder(timeout))
}

fn builder(timeout: Duration) -> reqwest::ClientBuilder {
    // reqwest is built without a default provider; ring builds much faster.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(timeout)
        // A login page behind a redirect answers 200 and is no health check.
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(user_agent::USER_AGENT)
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, PortError> {
    builder
        .build()
        .map_err(|error| PortError::Other(format!("cannot set up HTTP: {}", cause(&error))))
}

/// Reads each field by itself, so that a field of the wrong type does not hide the others.
pub(super) fn read_health(body: &Value) -> Health {
    let text = |name: &str| Some(body.get(name)?.as_str()?.to_owned());
    let count = |name: &str| body.get(name)?.as_u64();
    Health {
        model_name: text("model_name"),
        model_version: text("model_version"),
        model_digest: text("model_digest"),
        uptime_seconds: body.get("uptime_seconds").and_then(Value::as_f64),
        request_count: count("request_count"),
        error_count: count("error_count"),
        time_limits: body
            .get("time_limits")
            .and_then(|limits| serde_json::from_value(limits.clone()).ok()),
    }
}

/// The innermost cause: "connection refused" instead of "error sending request".
pub(crate) fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "timed out".to_owned();
    }
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Returns the status and the whole body, which has at most 16 MiB. Errors name the request as `shown`, such as `GET http://127.0.0.1`.
pub(super) async fn answer(
    request: reqwest::RequestBuilder,
    shown: &str,
) -> Result<(u16, String), PortError> {
    let mut response = request
        .send()
        .await
        .map_err(|error| no_answer(&error, &format!("{shown} failed")))?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let failed = |error| no_answer(&error, &format!("{shown} answered {status}, then failed"));
    while let Some(chunk) = response.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            let limit = MAX_ANSWER >> 20;
            return Err(PortError::Invalid(format!(
                "{shown} answered {status} with more than {limit} MiB"
            )));
        }
        body.extend_from_slice(&chunk);
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Why no whole answer came back.
fn no_answer(error: &reqwest::Error, what: &str) -> PortError {
    let message = format!("{what}: {}", cause(error));
    if error.is_timeout() {
        PortError::TimedOut(message)
    } else {
        PortError::Unreachable(message)
    }
}

pub(super) fn refused(request: &str, status: u16, body: &str) -> PortError {
    PortError::Refused {
        status,
        message: format!("{request} answered {status}{}", excerpt(body)),
    }
}

/// Formats the body of an answer to follow a sentence; empty if it is empty.
fn excerpt(body: &str) -> String {
    const MAX_CHARACTERS: usize = 200;
    let body = body.trim();
    match body.char_indices().nth(MAX_CHARACTERS) {
        _ if body.is_empty() => String::new(),
        Some((end, _)) => format!(": {} ...", &body[..end]),
        None => format!(": {body}"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// Sends a request to a server that sends `response` and closes the connection.
    async fn answer_to(response: &'static [u8]) -> Result<(u16, String), PortError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A connection that is closed with unread data is reset.
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(response).await.unwrap();
        });
        let client = client(Duration::from_secs(10)).unwrap();
        let answer = answer(client.get(&url), "GET it").await;
        server.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn closed_port_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let client = client(Duration::from_secs(10)).unwrap();
        let error = answer(client.get(&url), "GET it").await.unwrap_err();
        let message = "GET it failed: Connection refused (os error 111)";
        assert_eq!(error, PortError::Unreachable(message.to_owned()));
    }

    #[tokio::test]
    async fn silent_server_is_timed_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let client = client(Duration::from_millis(50)).unwrap();
        let error = answer(client.get(&url), "GET it").await.unwrap_err();
        let message = "GET it failed: timed out";
        assert_eq!(error, PortError::TimedOut(message.to_owned()));
    }

    #[tokio::test]
    async fn response_that_breaks_off_is_unreachable() {
        let error = answer_to(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
        let error = error.unwrap_err();
        assert!(matches!(error, PortError::Unreachable(_)), "{error:?}");
        let message = error.to_string();
        let begin = "GET it answered 200, then failed: ";
        assert!(message.starts_with(begin), "{message}");
    }

    #[tokio::test]
    async fn response_without_success_is_refused_with_its_status() {
        let response = b"HTTP/1.1 503 Busy\r\ncontent-length: 8\r\n\r\nloading\n";
        let (status, body) = answer_to(response).await.unwrap();
        let message = "GET it answered 503: loading".to_owned();
        assert_eq!(
            refused("GET it", status, &body),
            PortError::Refused {
                status: 503,
                message
            }
        );
    }

    #[tokio::test]
    async fn each_health_check_opens_a_connection() {
        const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("blue.url=http://{}", listener.local_addr().unwrap());
        // It keeps connections open, and answers one request on each.
        let server = tokio::spawn(async move {
            let mut connections = Vec::new();
            for _ in 0..2 {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                stream.write_all(RESPONSE).await.unwrap();
                connections.push(stream);
            }
        });
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deployer.toml");
        std::fs::write(&file, "").unwrap();
        let settings = crate::config::load(Some(&file), &[url]).unwrap();
        let user_agent = Arc::new(UserAgent::of_installation(directory.path()));
        let probe = HttpProbe::new(&settings, user_agent).unwrap();
        for _ in 0..2 {
            let health = probe.health(Target::Server(Color::Blue)).await;
            assert_eq!(health, Ok(Health::default()));
        }
        server.await.unwrap();
    }

    #[test]
    fn health_field_of_wrong_type_does_not_hide_version() {
        let body = serde_json::json!({"model_version": "v1", "request_count": 12.5, "uptime_seconds": "3s"});
        let health = read_health(&body);
        assert_eq!(health.model_version.as_deref(), Some("v1"));
        assert_eq!((health.request_count, health.uptime_seconds), (None, None));
    }

    #[test]
    fn label_is_found_at_json_pointer() {
        let body = serde_json::json!({"outputs": [{"data": ["positive"]}], "class": 3, "all": []});
        let found = |place| label_in(&body, place);
        assert_eq!(found("/outputs/0/data/0").as_deref(), Some("positive"));
        assert_eq!(found("/class").as_deref(), Some("3"));
        assert_eq!(found("/all"), None);
        assert_eq!(found("/prediction"), None);
    }

    #[test]
    fn long_error_body_is_truncated_at_character_boundary() {
        assert_eq!(
            excerpt(&"ä".repeat(201)),
            format!(": {} ...", "ä".repeat(200))
        );
        assert_eq!(excerpt(" short\n"), ": short");
        assert_eq!(excerpt(" \n"), "");
    }
}
