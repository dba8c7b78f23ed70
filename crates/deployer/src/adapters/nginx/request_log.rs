//! Reads a log of the router while it grows.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;

use crate::{
    adapters::user_agent::USER_AGENT,
    color::Color,
    evidence::request::{Request, Route},
    ports::{LogCursor, LogPart, PortError, RequestLog},
};

/// A log of nginx.
pub(crate) struct AccessLog(PathBuf);

impl AccessLog {
    pub(crate) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Empties the log if it is larger than `limit` bytes. nginx appends, so it continues at the beginning.
    pub(crate) fn trim(path: &Path, limit: u64) -> io::Result<()> {
        match path.metadata() {
            Ok(metadata) if metadata.len() > limit => {
                OpenOptions::new().write(true).open(path)?.set_len(0)
            }
            _ => Ok(()),
        }
    }

    /// Reads from the byte `after` on, or recent requests.
    fn read_from(&self, after: Option<u64>) -> io::Result<LogPart> {
        /// About ten thousand requests.
        const RECENT: u64 = 4 * 1024 * 1024;

        let mut file = File::open(&self.0)?;
        let length = file.metadata()?.len();
        let recent = length.saturating_sub(RECENT);
        let start = match after {
            Some(after) if after <= length => after,
            Some(_) => 0,
            None => recent,
        };
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        // nginx flushes whole lines, but a reader may still find half of one.
        let complete = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |last| last + 1);
        let text = String::from_utf8_lossy(&bytes[..complete]);
        // The recent part of a long log begins within a line.
        let within_a_line = after.is_none() && recent > 0;
        let (mut requests, mut unparsable) = (Vec::new(), 0);
        for line in text.lines().skip(usize::from(within_a_line)) {
            match parse(line) {
                Some(request) => requests.push(request),
                None => unparsable += 1,
            }
        }
        Ok(LogPart {
            requests,
            unparsable,
            next: LogCursor::at(start + complete as u64),
        })
    }
}

#[async_trait]
impl RequestLog for AccessLog {
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
        self.read_from(after.map(LogCursor::position))
            .map_err(|error| {
                let message = format!(
                    "cannot read the router's log {}: {error}; set router.access_log to \"\" to judge without it",
                    self.0.display()
                );
                PortError::of_file(&error, message)
            })
    }
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(default)]
    seconds: f64,
    #[serde(default)]
    method: &'a str,
    // The client's, so it may contain escapes.
    #[serde(default)]
    uri: String,
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
        route: Route {
            method: line.method.to_owned(),
            path: line.uri.split('?').next().unwrap_or_default().to_owned(),
        },
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
    use crate::evidence::request::predict;

    const LINE: &str = r#"{"time":"2026-01-01T00:00:00+00:00","seconds":1.0,"method":"POST","uri":"/predict?a=b","client":"curl/8","label":"a \"b\"","status":200,"wanted":"green","answered":"blue","upstream_addr":"127.0.0.1:8082, 127.0.0.1:8081","upstream_status":"502, 200","upstream_response_time":"0.001, 0.002","request_time":0.003}"#;

    #[test]
    fn log_line_lists_attempts_in_order() {
        assert_eq!(
            parse(LINE),
            Some(Request {
                at: 1.0,
                by_deployer: false,
                route: predict(),
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

    /// Reads on from a position. Returns the number of requests, of unparsable lines, and the new position.
    async fn read(log: &AccessLog, after: Option<LogCursor>) -> (usize, u64, Option<LogCursor>) {
        let part = log.read(after).await.unwrap();
        (part.requests.len(), part.unparsable, Some(part.next))
    }

    #[tokio::test]
    async fn cursor_returns_each_complete_line_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let mut file = File::create(&path).unwrap();
        writeln!(file, "{LINE}").unwrap();
        let log = AccessLog::new(&path);
        let (requests, _, next) = read(&log, None).await;
        assert_eq!(requests, 1, "the requests logged before");
        assert_eq!(read(&log, next).await, (0, 0, next));
        write!(file, "{LINE}\n{}", &LINE[..40]).unwrap();
        let (requests, _, next) = read(&log, next).await;
        assert_eq!(requests, 1);
        assert_eq!(read(&log, next).await, (0, 0, next));
        writeln!(file, "{}", &LINE[40..]).unwrap();
        assert_eq!(read(&log, next).await.0, 1);
    }

    #[tokio::test]
    async fn readers_of_one_log_do_not_disturb_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\nnot a log line\n{LINE}\n")).unwrap();
        let log = AccessLog::new(&path);
        let (requests, unparsable, next) = read(&log, None).await;
        assert_eq!((requests, unparsable), (2, 1));
        assert_eq!(read(&log, None).await, (2, 1, next));
        assert_eq!(read(&log, next).await, (0, 0, next));
    }

    #[tokio::test]
    async fn long_log_is_read_from_a_line_boundary_near_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\n").repeat(20_000)).unwrap();
        let (requests, unparsable, _) = read(&AccessLog::new(&path), None).await;
        assert!((8_000..20_000).contains(&requests), "{requests}");
        assert_eq!(unparsable, 0);
    }

    #[tokio::test]
    async fn emptied_log_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\n{LINE}\n")).unwrap();
        let log = AccessLog::new(&path);
        let (requests, _, next) = read(&log, None).await;
        assert_eq!(requests, 2);
        std::fs::write(&path, format!("{LINE}\n")).unwrap();
        assert_eq!(read(&log, next).await.0, 1);
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

    #[tokio::test]
    async fn missing_log_is_named_in_error() {
        let log = AccessLog::new(Path::new("no/such.log"));
        let error = log.read(None).await.unwrap_err();
        assert!(error.to_string().contains("no/such.log"));
    }
}
