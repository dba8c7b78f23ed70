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

#[cfg(test)]
mod tests {
    use crate::evidence::request::answered_by;
    use async_trait::async_trait;

    use super::*;
    use crate::{color::Color, ports::LogPart, report::Reporters};

    /// A log that grows by one request and one unparsable line between two reads, and fails once.
    struct GrowingLog {
        reads: Mutex<u64>,
        failing_read: u64,
    }

    #[async_trait]
    impl RequestLog for GrowingLog {
        async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
            let mut reads = self.reads.lock().unwrap();
            *reads += 1;
            if *reads == self.failing_read {
                return Err(PortError::Other("unreadable".to_owned()));
            }
            let new = *reads - after.map_or(0, LogCursor::position);
            let request = answered_by(Color::Blue, 200);
            Ok(LogPart {
                requests: vec![request; usize::try_from(new).unwrap()],
                unparsable: new,
                next: LogCursor::at(*reads),
            })
        }
    }

    /// Counts the requests that are reported.
    #[derive(Default)]
    struct Reported(Mutex<usize>);

    impl Reporter for Reported {
        fn report(&self, event: &Event<'_>) {
            if let Event::RequestsLogged { requests } = event {
                *self.0.lock().unwrap() += requests.len();
            }
        }
    }

    async fn new_requests(reader: &RequestReader<'_>) -> Option<usize> {
        let requests = reader.new_requests().await?.ok()?;
        Some(requests.len())
    }

    #[tokio::test]
    async fn each_request_is_returned_and_reported_once_also_after_an_error() {
        let (reads, reported) = (Mutex::new(0), Reported::default());
        let log = GrowingLog {
            reads,
            failing_read: 3,
        };
        let reader = RequestReader {
            log: Some(&log),
            reporter: &reported,
            progress: Mutex::default(),
        };
        assert_eq!(new_requests(&reader).await, Some(1));
        assert_eq!(new_requests(&reader).await, Some(1));
        assert_eq!(new_requests(&reader).await, None, "the failing read");
        assert_eq!(new_requests(&reader).await, Some(2));
        assert_eq!(*reported.0.lock().unwrap(), 4);
        assert_eq!(reader.unparsable_lines(), 4);
    }

    #[tokio::test]
    async fn recent_requests_are_neither_reported_nor_counted_as_read() {
        let (reads, reported) = (Mutex::new(0), Reported::default());
        let log = GrowingLog {
            reads,
            failing_read: 0,
        };
        let reader = RequestReader {
            log: Some(&log),
            reporter: &reported,
            progress: Mutex::default(),
        };
        let recent = reader.recent_requests().await.unwrap().unwrap();
        assert_eq!(recent.len(), 1);
        assert_eq!(reader.unparsable_lines(), 0);
        assert_eq!(new_requests(&reader).await, Some(2));
        assert_eq!(*reported.0.lock().unwrap(), 2);
    }

    #[tokio::test]
    async fn machine_without_log_has_no_requests() {
        let reader = RequestReader {
            log: None,
            reporter: &Reporters(Vec::new()),
            progress: Mutex::default(),
        };
        assert_eq!(new_requests(&reader).await, None);
        assert!(reader.recent_requests().await.is_none());
    }
}
