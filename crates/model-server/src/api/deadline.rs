use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName};
use tokio::time::timeout_at;

use crate::{api::error::ApiError, state::ServerState};

/// By which header a client says how long it waits, in milliseconds.
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// When an answer comes too late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    pub(crate) after: Duration,
}

impl Deadline {
    /// The server's own limit from now on, or the client's where that is shorter.
    pub(crate) fn of(state: &ServerState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let own = state.request_timeout;
        let after = match headers.get(TIMEOUT_HEADER) {
            None => own,
            Some(value) => {
                let milliseconds = value
                    .to_str()
                    .ok()
                    .and_then(|text| text.trim().parse().ok());
                let wanted = milliseconds.filter(|it| *it > 0).map(Duration::from_millis);
                wanted.ok_or(ApiError::TimeoutHeader)?.min(own)
            }
        };
        Ok(Self {
            at: Instant::now() + after,
            after,
        })
    }

    /// What `work` gives, if it ends in time.
    pub(crate) async fn bound<T>(&self, input: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.at.into(), input).await.ok()
    }

    /// How long a client waits from its request on.
    pub(crate) fn after(&self) -> Duration {
        self.after
    }
}
