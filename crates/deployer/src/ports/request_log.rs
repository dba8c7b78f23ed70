//! What clients were answered.

use std::{any::Any, sync::Arc};

use async_trait::async_trait;

use crate::{evidence::request::Request, ports::error::PortError};

/// A position in a log. Each reader has its own.
#[derive(Debug, Clone)]
pub struct LogCursor {
    position: u64,
    pending: Option<Arc<dyn Any + Send + Sync>>,
}

impl LogCursor {
    /// The position at this distance from the beginning of the log, in units that only the log knows.
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self {
            position,
            pending: None,
        }
    }

    /// Adds what was read before this position and is not returned yet. Only the log knows its type.
    #[must_use]
    pub fn with_pending(self, pending: impl Any + Send + Sync) -> Self {
        Self {
            pending: Some(Arc::new(pending)),
            ..self
        }
    }

    /// The distance from the beginning of the log.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// What was read before this position and is not returned yet.
    #[must_use]
    pub fn pending<T: Any>(&self) -> Option<&T> {
        self.pending.as_ref()?.downcast_ref()
    }
}

/// A part of a log.
#[derive(Debug, Clone)]
pub struct LogPart {
    /// The requests, in the order in which they ended. A request may be missing for about two seconds, until the log tells
    /// how it ended. Then a read from `next` on returns it.
    pub requests: Vec<Request>,
    /// How many lines could not be parsed.
    pub unparsable: u64,
    /// The position after them.
    pub next: LogCursor,
    /// Why answers that broke off look like whole ones in this part; `None` if they can be told apart.
    pub problem: Option<PortError>,
    /// Which router's requests are missing in this part, and why; `None` if none are. A later part has them if the log can
    /// be read then.
    pub missing: Option<PortError>,
}

/// Reads what clients were answered.
#[async_trait]
pub trait RequestLog: Send + Sync {
    /// Returns the requests that were logged after the position `after`, each of them once; without one, those of the last
    /// 15 minutes, at most about fifty thousand. If the log is shorter than `after`, it was emptied, and is read from its
    /// beginning.
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError>;
}
