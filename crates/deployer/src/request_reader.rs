//! Reads on in the router's log during a deployment, for everything that judges it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::{
    event::{Event, Reporter},
    evidence::request::Request,
    ports::{LogCursor, PortError, RequestLog},
};

/// Returns each logged request once, and reports it to the report of the deployment.
pub struct RequestReader<'a> {
    log: Option<&'a dyn RequestLog>,
    reporter: &'a dyn Reporter,
    progress: Mutex<Progress>,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Progress {
    next: Option<LogCursor>,
    unparsable: u64,
    problem: Option<PortError>,
    missing: Option<PortError>,
}

impl<'a> RequestReader<'a> {
    /// A reader that has read nothing. `log` is `None` if this machine cannot read it.
    #[must_use]
    pub fn new(log: Option<&'a dyn RequestLog>, reporter: &'a dyn Reporter) -> Self {
        Self {
            log,
            reporter,
            progress: Mutex::default(),
        }
    }

    /// Returns what was logged since the last call; the first call returns recent requests. `None` if this machine
    /// cannot read the log.
    pub async fn new_requests(&self) -> Option<Result<Vec<Request>, PortError>> {
        let log = self.log?;
        let after = self.progress().next.clone();
        let part = match log.read(after).await {
            Ok(part) => part,
            Err(error) => return Some(Err(error)),
        };
        let requests = &part.requests;
        self.reporter.report(&Event::RequestsLogged { requests });
        let mut progress = self.progress();
        progress.next = Some(part.next);
        progress.unparsable += part.unparsable;
        let before = [
            std::mem::replace(&mut progress.problem, part.problem.clone()),
            std::mem::replace(&mut progress.missing, part.missing.clone()),
        ];
        drop(progress);
        for (before, now) in before.into_iter().zip([part.problem, part.missing]) {
            if let (None, Some(problem)) = (before, now) {
                let text = problem.to_string();
                self.reporter.report(&Event::Note { text });
            }
        }
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

    /// Why answers that broke off looked like whole ones at the last call of [`Self::new_requests`]; `None` if they could be
    /// told apart.
    pub fn problem(&self) -> Option<PortError> {
        self.progress().problem.clone()
    }

    /// Which router's requests were missing at the last call of [`Self::new_requests`], and why; `None` if none were.
    pub fn missing(&self) -> Option<PortError> {
        self.progress().missing.clone()
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
        problem: Mutex<Option<PortError>>,
    }

    #[async_trait]
    impl RequestLog for GrowingLog {
        async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
            let mut reads = self.reads.lock().unwrap();
            *reads += 1;
            if *reads == self.failing_read {
                return Err(PortError::Other("unreadable".to_owned()));
            }
            let new = *reads - after.map_or(0, |after| after.position());
            let request = answered_by(Color::Blue, 200);
            Ok(LogPart {
                requests: vec![request; usize::try_from(new).unwrap()],
                unparsable: new,
                next: LogCursor::at(*reads),
                problem: self.problem.lock().unwrap().clone(),
                missing: None,
            })
        }
    }

    /// Counts the requests and the notes that are reported.
    #[derive(Default)]
    struct Reported {
        requests: Mutex<usize>,
        notes: Mutex<usize>,
    }

    impl Reporter for Reported {
        fn report(&self, event: &Event<'_>) {
            match event {
                Event::RequestsLogged { requests } => {
                    *self.requests.lock().unwrap() += requests.len();
                }
                Event::Note { .. } => *self.notes.lock().unwrap() += 1,
                _ => {}
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
            problem: Mutex::default(),
        };
        let reader = RequestReader::new(Some(&log), &reported);
        assert_eq!(new_requests(&reader).await, Some(1));
        assert_eq!(new_requests(&reader).await, Some(1));
        assert_eq!(new_requests(&reader).await, None, "the failing read");
        assert_eq!(new_requests(&reader).await, Some(2));
        assert_eq!(*reported.requests.lock().unwrap(), 4);
        assert_eq!(reader.unparsable_lines(), 4);
    }

    #[tokio::test]
    async fn recent_requests_are_neither_reported_nor_counted_as_read() {
        let (reads, reported) = (Mutex::new(0), Reported::default());
        let log = GrowingLog {
            reads,
            failing_read: 0,
            problem: Mutex::default(),
        };
        let reader = RequestReader::new(Some(&log), &reported);
        let recent = reader.recent_requests().await.unwrap().unwrap();
        assert_eq!(recent.len(), 1);
        assert_eq!(reader.unparsable_lines(), 0);
        assert_eq!(new_requests(&reader).await, Some(2));
        assert_eq!(*reported.requests.lock().unwrap(), 2);
    }

    #[tokio::test]
    async fn problem_is_reported_once_until_it_is_solved() {
        let reported = Reported::default();
        let log = GrowingLog {
            reads: Mutex::new(0),
            failing_read: 0,
            problem: Mutex::default(),
        };
        let reader = RequestReader::new(Some(&log), &reported);
        let problem = PortError::Other("no error log".to_owned());
        for (now, notes) in [(true, 1), (true, 1), (false, 1), (true, 2)] {
            let now = now.then(|| problem.clone());
            log.problem.lock().unwrap().clone_from(&now);
            assert_eq!(new_requests(&reader).await, Some(1));
            assert_eq!(reader.problem(), now);
            assert_eq!(*reported.notes.lock().unwrap(), notes);
        }
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
