use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};
use tokio::time::timeout_at;

use crate::{api::error::ApiError, state::ServerState};

/// The header with the client's own timeout, in milliseconds.
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// The time at which the client stops waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

impl Deadline {
    /// Starts the server's request timeout, or the client's own if it is shorter.
    pub(crate) fn of(state: &ServerState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let own = state.limits.request_timeout;
        let after = match headers.get(TIMEOUT_HEADER) {
            None => own,
            Some(value) => {
                let milliseconds = value
                    .to_str()
                    .ok()
                    .and_then(|text| text.trim().parse().ok());
                let wanted = milliseconds.filter(|it| *it > 0).map(Duration::from_millis);
                let invalid = || String::from_utf8_lossy(value.as_bytes()).into_owned();
                wanted
                    .ok_or_else(|| ApiError::TimeoutHeader(invalid()))?
                    .min(own)
            }
        };
        Ok(Self {
            at: Instant::now() + after,
            after,
        })
    }

    /// Returns the output of `work`, or `None` after the deadline.
    pub(crate) async fn bound<T>(&self, input: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.at.into(), input).await.ok()
    }

    /// The timeout, counted from the arrival of the request.
    pub(crate) fn after(&self) -> Duration {
        self.after
    }
}
