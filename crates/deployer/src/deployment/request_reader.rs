//! Reads on in the router's log during a deployment, for everything that judges it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    event::{Event, Reporter},
    evidence::request::Request,
    ports::{LogCursor, PortError, Ports, RequestLog},
};

/// Returns each logged request once, and reports it to the report of the deployment.
pub struct RequestReader<'a> {
    log: Option<&'a dyn RequestLog>,
    reporter: &'a dyn Reporter,
    progress: Mutex<Progress>,
}

/// What was read so far.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    next: Option<LogCursor>,
    unparsable: u64,
}

impl<'a> RequestReader<'a> {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new(ports: &'a Ports, reporter: &'a dyn Reporter) -> Self {
        Self {
            log: ports.request_log.as_deref(),
            reporter,
            progress: Mutex::default(),
        }
    }

    /// Returns what was logged since the last call; the first call returns recent requests. `None` if this machine
    /// cannot read the log.
    pub async fn new_requests(&self) -> Option<Result<Vec<Request>, PortError>> {
        let log = self.log?;
        let after = self.progress().next;
        let part = match log.read(after).await {
            Ok(part) => part,
            Err(error) => return Some(Err(error)),
        };
        let requests = &part.requests;
        self.reporter.report(&Event::RequestsLogged { requests });
        let mut progress = self.progress();
        progress.next = Some(part.next);
        progress.unparsable += part.unparsable;
        Some(Ok(part.requests))
    }

    /// Returns recent requests, whether or not they were read before. `None` if this machine cannot read the log.
    pub async fn recent_requests(&self) -> Option<Result<Vec<Request>, PortError>> {
        let part = self.log?.read(None).await;
        Some(part.map(|part| part.requests))
    }

    /// How many lines that were read could not be parsed.
    pub fn unparsable_lines(&self) -> u64 {
        self.progress().unparsable
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
