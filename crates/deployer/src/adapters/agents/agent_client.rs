//! Requests to the agents of the routers.

use std::{path::Path, time::Duration};

use hyper::header::AUTHORIZATION;
use reqwest::RequestBuilder;

use crate::{
    adapters::{
        http::{answer, cause, client, refused},
        token_file::TokenFile,
    },
    cluster::{change::Message, message::RouterReport},
    ports::{PortError, RouterEntry},
};

/// The header of an answer to `GET /log/...` with the length of the whole log.
const LOG_LENGTH: &str = "x-log-length";

/// An observation of the bake has 1 s for the logs of all routers.
const LOG_TIMEOUT: Duration = Duration::from_millis(500);

/// Sends requests with the token that the agents accept.
pub(super) struct AgentClient {
    client: reqwest::Client,
    token: TokenFile,
}

/// A part of a router's log.
pub(super) struct LogBytes {
    pub(super) bytes: Vec<u8>,
    /// The length of the whole log when the agent answered.
    pub(super) length: u64,
}

impl AgentClient {
    /// Requests without a time limit of their own end within `timeout`.
    pub(super) fn new(token_file: &Path, timeout: Duration) -> Result<Self, PortError> {
        Ok(Self {
            client: client(timeout)?,
            token: TokenFile::open(token_file)?,
        })
    }

    /// Asks the router for its state.
    pub(super) async fn state(&self, router: &RouterEntry) -> Result<RouterReport, PortError> {
        let url = format!("{}/state", router.url);
        let (status, body) = self
            .answer(self.client.get(&url), &format!("GET {url}"))
            .await?;
        parse_report(&format!("GET {url}"), status, &body)
    }

    /// Sends a message of a change, and returns the router's report, also if it refuses the message.
    pub(super) async fn send(
        &self,
        router: &RouterEntry,
        message: &Message,
        timeout: Duration,
    ) -> Result<RouterReport, PortError> {
        let post = |path: &str| self.client.post(format!("{}/{path}", router.url));
        let (path, request) = match message {
            Message::Prepare(prepare) => ("prepare", post("prepare").json(prepare)),
            Message::Undecided(undecided) => ("undecided", post("undecided").json(undecided)),
            Message::Release(release) => ("release", post("release").json(release)),
            Message::Apply(truth) => ("apply", post("apply").json(truth)),
        };
        let shown = format!("POST {}/{path}", router.url);
        let (status, body) = self.answer(request.timeout(timeout), &shown).await?;
        parse_report(&shown, status, &body)
    }

    /// Asks the control port of the router's nginx. Returns the status and the body.
    pub(super) async fn control(
        &self,
        router: &RouterEntry,
        path: &str,
    ) -> Result<(u16, String), PortError> {
        let url = format!("{}/control{path}", router.url);
        self.answer(self.client.get(&url), &format!("GET {url}"))
            .await
    }

    /// Returns a part of a log of the router, which begins at the byte `after`.
    pub(super) async fn log(
        &self,
        router: &RouterEntry,
        name: &str,
        after: u64,
    ) -> Result<LogBytes, PortError> {
        let url = format!("{}/log/{name}?after={after}", router.url);
        let shown = format!("GET {url}");
        let request = self.client.get(&url).timeout(LOG_TIMEOUT);
        let request = self.authorized(request)?;
        let failed = |error: &reqwest::Error| {
            PortError::Unreachable(format!("{shown} failed: {}", cause(error)))
        };
        let response = request.send().await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        if status != 200 {
            let body = response.text().await.unwrap_or_default();
            return Err(refused(&shown, status, &body));
        }
        let length = response.headers().get(LOG_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let length = length.ok_or_else(|| {
            PortError::Invalid(format!("{shown} answered without the header {LOG_LENGTH}"))
        })?;
        let bytes = response.bytes().await.map_err(|error| failed(&error))?;
        Ok(LogBytes {
            bytes: bytes.to_vec(),
            length,
        })
    }

    async fn answer(
        &self,
        request: RequestBuilder,
        shown: &str,
    ) -> Result<(u16, String), PortError> {
        answer(self.authorized(request)?, shown).await
    }

    fn authorized(&self, request: RequestBuilder) -> Result<RequestBuilder, PortError> {
        Ok(request.header(AUTHORIZATION, self.token.authorization()?))
    }
}

/// The report in an answer. An agent that refuses a message answers 409 with its report.
fn parse_report(shown: &str, status: u16, body: &str) -> Result<RouterReport, PortError> {
    if status != 200 && status != 409 {
        return Err(refused(shown, status, body));
    }
    serde_json::from_str(body).map_err(|error| {
        PortError::Invalid(format!(
            "{shown} answered {status} without a router's report: {error}"
        ))
    })
}
