//! Reads a log of the router while it grows.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Deserialize;

use crate::{
    adapters::user_agent::USER_AGENT,
    color::Color,
    evidence::request::Request,
    ports::{PortError, RequestLog},
};

/// A log, and the position up to which it was read.
pub(in crate::adapters) struct AccessLog {
    path: PathBuf,
    position: Mutex<Position>,
}

/// The position up to which it was read.
#[derive(Debug, Clone, Copy)]
struct Position {
    offset: u64,
    /// Whether the position may be inside a line.
    within_a_line: bool,
    /// Unparsable lines before the position.
    strange: u64,
}

impl Position {
    /// A position before the end of a file of this size from which recent requests can be read.
    fn recent_requests(length: u64) -> Self {
        /// About ten thousand requests.
        const RECENT: u64 = 4 * 1024 * 1024;

        let offset = length.saturating_sub(RECENT);
        Self {
            offset,
            within_a_line: offset > 0,
            strange: 0,
        }
    }

    /// Returns the requests after the position, and the new position.
    fn read(mut self, file: &mut File) -> std::io::Result<(Vec<Request>, Self)> {
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // nginx flushes whole lines, but a reader may still find half of one.
        let complete = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        self.offset += complete as u64;
        let text = String::from_utf8_lossy(&bytes[..complete]);
        let mut lines = text.lines();
        if self.within_a_line && complete > 0 {
            lines.next();
            self.within_a_line = false;
        }
        let mut requests = Vec::new();
        for line in lines {
            match parse(line) {
                Some(request) => requests.push(request),
                None => self.strange += 1,
            }
        }
        Ok((requests, self))
    }
}

impl AccessLog {
    /// Opens a log at a position from which recent requests can be read.
    pub(in crate::adapters) fn new(path: &Path) -> Self {
        let length = path.metadata().map_or(0, |metadata| metadata.len());
        Self {
            path: path.to_owned(),
            position: Mutex::new(Position::recent_requests(length)),
        }
    }

    /// Empties the log if it is larger than `limit` bytes. nginx appends, so it continues at the beginning.
    pub(in crate::adapters) fn trim(path: &Path, limit: u64) -> std::io::Result<()> {
        match path.metadata() {
            Ok(metadata) if metadata.len() > limit => {
                OpenOptions::new().write(true).open(path)?.set_len(0)
            }
            _ => Ok(()),
        }
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_on(&self) -> std::io::Result<Vec<Request>> {
        let mut position = self.position();
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < position.offset {
            (position.offset, position.within_a_line) = (0, false);
        }
        let (requests, next) = position.read(&mut file)?;
        *position = next;
        Ok(requests)
    }

    fn read_again(&self) -> std::io::Result<Vec<Request>> {
        let mut file = File::open(&self.path)?;
        let position = Position::recent_requests(file.metadata()?.len());
        Ok(position.read(&mut file)?.0)
    }

    fn unreadable(&self, error: &std::io::Error) -> PortError {
        let message = format!(
            "cannot read the router's log {}: {error}; set router.access_log to \"\" to judge without it",
            self.path.display()
        );
        PortError::of_file(error, message)
    }
}

impl RequestLog for AccessLog {
    fn new_requests(&self) -> Result<Vec<Request>, PortError> {
        self.read_on().map_err(|error| self.unreadable(&error))
    }

    fn recent_requests(&self) -> Result<Vec<Request>, PortError> {
        self.read_again().map_err(|error| self.unreadable(&error))
    }

    fn unparsable_lines(&self) -> u64 {
        self.position().strange
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    seconds: f64,
    wanted: Color,
    answered: &'a str,
    status: u16,
    upstream_status: &'a str,
    #[serde(default)]
    upstream_response_time: &'a str,
    #[serde(default)]
    request_time: f64,
    // Values from clients and models may contain escapes, and then cannot borrow from the line.
    #[serde(default)]
    client: String,
    #[serde(default)]
    label: String,
}

fn parse(line: &str) -> Option<Request> {
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    let answered = match line.answered {
        "blue" => Some(Color::Blue),
        "green" => Some(Color::Green),
        _ => None,
    };
    let first = line.upstream_response_time.split([',', ':']).next();
    Some(Request {
        at: line.seconds,
        by_deployer: line.client == USER_AGENT,
        took: first.and_then(|first| seconds(first.trim().parse().ok()?)),
        waited: seconds(line.request_time)?,
        label: (!line.label.is_empty()).then_some(line.label),
        wanted: line.wanted,
        answered,
        status: line.status,
        // A request that nginx restarted separates its attempts by colons too.
        attempts: line
            .upstream_status
            .split([',', ':'])
            .map(|status| status.trim().parse().ok())
            .collect(),
    })
}

/// nginx's clock has a resolution of 1 ms: 0 means less.
fn seconds(seconds: f64) -> Option<Duration> {
    const LESS_THAN_ONE: f64 = 0.000_5;
    Duration::try_from_secs_f64(seconds.max(LESS_THAN_ONE)).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LINE: &str = r#"{"time":"2026-01-01T00:00:00+00:00","seconds":1.0,"method":"POST","uri":"/predict","client":"curl/8","label":"a \"b\"","status":200,"wanted":"green","answered":"blue","upstream_addr":"127.0.0.1:8082, 127.0.0.1:8081","upstream_status":"502, 200","upstream_response_time":"0.001, 0.002","request_time":0.003}"#;

    #[test]
    fn log_line_lists_attempts_in_order() {
        assert_eq!(
            parse(LINE),
            Some(Request {
                at: 1.0,
                by_deployer: false,
                wanted: Color::Green,
                answered: Some(Color::Blue),
                status: 200,
                attempts: vec![Some(502), Some(200)],
                took: Some(Duration::from_millis(1)),
                waited: Duration::from_millis(3),
                label: Some("a \"b\"".to_owned()),
            })
        );
    }

    #[test]
    fn own_requests_are_recognized_by_user_agent() {
        let line = LINE.replace("curl/8", USER_AGENT);
        assert!(parse(&line).unwrap().by_deployer);
    }

    #[test]
    fn attempt_without_answer_has_no_status_or_latency() {
        let line = LINE
            .replace("\"0.001, 0.002\"", "\"-\"")
            .replace("\"502, 200\"", "\"-\"")
            .replace("\"answered\":\"blue\"", "\"answered\":\"\"");
        let request = parse(&line).unwrap();
        assert_eq!(request.attempts, [None]);
        assert_eq!(request.took, None);
        assert_eq!(request.answered, None);
    }

    #[test]
    fn restarted_request_lists_all_attempts() {
        let line = LINE.replace("\"502, 200\"", "\"504, 502 : 200\"");
        assert_eq!(
            parse(&line).unwrap().attempts,
            [Some(504), Some(502), Some(200)]
        );
    }

    #[test]
    fn new_requests_returns_each_complete_line_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut file = File::create(&path).unwrap();
        writeln!(file, "{LINE}").unwrap();
        let log = AccessLog::new(&path);
        assert_eq!(
            log.new_requests().unwrap().len(),
            1,
            "the requests logged before the log was opened"
        );
        assert_eq!(log.new_requests().unwrap().len(), 0);
        write!(file, "{LINE}\n{}", &LINE[..40]).unwrap();
        assert_eq!(log.new_requests().unwrap().len(), 1);
        assert_eq!(log.new_requests().unwrap().len(), 0);
        writeln!(file, "{}", &LINE[40..]).unwrap();
        assert_eq!(log.new_requests().unwrap().len(), 1);
    }

    #[test]
    fn recent_requests_are_read_again_and_unparsable_lines_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\nnot a log line\n{LINE}\n")).unwrap();
        let log = AccessLog::new(&path);
        assert_eq!(log.new_requests().unwrap().len(), 2);
        assert_eq!(log.unparsable_lines(), 1);
        assert_eq!(log.recent_requests().unwrap().len(), 2);
        assert_eq!(log.new_requests().unwrap().len(), 0);
        assert_eq!(log.unparsable_lines(), 1);
    }

    #[test]
    fn long_log_is_read_from_a_line_boundary_near_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\n").repeat(20_000)).unwrap();
        let log = AccessLog::new(&path);
        let read = log.new_requests().unwrap().len();
        assert!((8_000..20_000).contains(&read), "{read}");
        assert_eq!(log.unparsable_lines(), 0);
    }

    #[test]
    fn truncated_log_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\n{LINE}\n")).unwrap();
        let log = AccessLog::new(&path);
        assert_eq!(log.new_requests().unwrap().len(), 2);
        std::fs::write(&path, format!("{LINE}\n")).unwrap();
        assert_eq!(log.new_requests().unwrap().len(), 1);
    }

    #[test]
    fn only_log_above_limit_is_emptied() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let file = File::create(&path).unwrap();
        // A sparse file, which takes no disk space.
        for (length, expected) in [(1 << 20, 1 << 20), (1 << 29, 0)] {
            file.set_len(length).unwrap();
            AccessLog::trim(&path, 1 << 28).unwrap();
            assert_eq!(path.metadata().unwrap().len(), expected);
        }
    }

    #[test]
    fn missing_log_is_named_in_error() {
        let error = AccessLog::new(Path::new("no/such.log"))
            .new_requests()
            .unwrap_err();
        assert!(error.to_string().contains("no/such.log"));
    }
}
