//! What clients were answered.

use async_trait::async_trait;

use crate::{evidence::request::Request, ports::error::PortError};

/// A position in a log, between two requests. Each reader has its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogCursor(u64);

impl LogCursor {
    /// The position at this distance from the beginning of the log, in units that only the log knows.
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self(position)
    }

    /// The distance from the beginning of the log.
    #[must_use]
    pub fn position(self) -> u64 {
        self.0
    }
}

/// A part of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogPart {
    /// The requests, in the order in which they ended.
    pub requests: Vec<Request>,
    /// How many lines could not be parsed.
    pub unparsable: u64,
    /// The position after them.
    pub next: LogCursor,
}

/// Reads what clients were answered.
#[async_trait]
pub trait RequestLog: Send + Sync {
    /// Returns the requests that were logged after the position `after`; without one, those of the last 15
    /// minutes, at most about fifty thousand. If the log is shorter than `after`, it was emptied, and is read from its beginning.
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError>;
}
