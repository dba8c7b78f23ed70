//! Reads a log of the router while it grows.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;

use crate::{
    adapters::user_agent::UserAgent,
    color::Color,
    evidence::request::{Attempt, Request, Route},
    ports::{LogCursor, LogPart, PortError, RequestLog},
};

/// A log of nginx.
pub(crate) struct AccessLog {
    path: PathBuf,
    user_agent: Arc<UserAgent>,
}

impl AccessLog {
    pub(crate) fn new(path: &Path, user_agent: Arc<UserAgent>) -> Self {
        Self {
            path: path.to_owned(),
            user_agent,
        }
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
        /// About fifty thousand requests.
        const RECENT: u64 = 32 * 1024 * 1024;

        let mut file = File::open(&self.path)?;
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
        let user_agent = self.user_agent.get();
        let (mut requests, mut unparsable) = (Vec::new(), 0);
        for line in text.lines().skip(usize::from(within_a_line)) {
            match parse(line, user_agent) {
                Some(request) => requests.push(request),
                None => unparsable += 1,
            }
        }
        if after.is_none() {
            keep_recent(&mut requests);
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
                    self.path.display()
                );
                PortError::of_file(&error, message)
            })
    }
}

/// Removes requests that ended more than 15 minutes before the last one.
fn keep_recent(requests: &mut Vec<Request>) {
    const RECENT_SECONDS: f64 = 15.0 * 60.0;

    let last = requests.iter().map(|request| request.at);
    let last = last.fold(f64::NEG_INFINITY, f64::max);
    requests.retain(|request| request.at >= last - RECENT_SECONDS);
}

/// A line of the log.
#[derive(Deserialize)]
struct Line<'a> {
    seconds: f64,
    request_id: String,
    method: &'a str,
    // The client's, so it may contain escapes.
    uri: String,
    status: u16,
    wanted: &'a str,
    answered: &'a str,
    // Values from clients and models may contain escapes, and then cannot borrow from the line.
    client: String,
    remote_addr: String,
    label: String,
    version: String,
    digest: String,
    upstream_addr: &'a str,
    upstream_status: &'a str,
    upstream_header_time: &'a str,
    upstream_response_time: &'a str,
    upstream_response_length: &'a str,
    upstream_content_length: &'a str,
    request_time: f64,
    request_length: u64,
}

fn parse(line: &str, user_agent: &str) -> Option<Request> {
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    let wanted = color(line.wanted);
    let attempts = wanted.map_or_else(Vec::new, |wanted| attempts(&line, wanted));
    let text = |text: String| (!text.is_empty()).then_some(text);
    Some(Request {
        id: line.request_id,
        at: line.seconds,
        by_deployer: line.client == user_agent,
        client: line.remote_addr,
        route: Route {
            method: line.method.to_owned(),
            path: line.uri.split('?').next().unwrap_or_default().to_owned(),
        },
        size: line.request_length,
        attempts,
        wanted,
        cut: false,
        status: line.status,
        waited: seconds(line.request_time)?,
        answer_size: of_attempts(line.upstream_response_length)
            .last()
            .and_then(|length| length.parse().ok())
            .unwrap_or_default(),
        promised_size: line.upstream_content_length.parse().ok(),
        label: text(line.label),
        version: text(line.version),
        digest: text(line.digest),
    })
}

fn color(name: &str) -> Option<Color> {
    match name {
        "blue" => Some(Color::Blue),
        "green" => Some(Color::Green),
        _ => None,
    }
}

/// The attempts at a request that came while `wanted` was active.
fn attempts(line: &Line<'_>, wanted: Color) -> Vec<Attempt> {
    let addresses: Vec<&str> = of_attempts(line.upstream_addr).collect();
    let statuses = of_attempts(line.upstream_status).chain(std::iter::repeat("-"));
    let to_head = of_attempts(line.upstream_header_time).chain(std::iter::repeat("-"));
    let to_end = of_attempts(line.upstream_response_time).chain(std::iter::repeat("-"));
    // The log names the color of the last attempt. If there was no server to ask, it names none.
    let last = color(line.answered).unwrap_or(wanted);
    let color_of = |address: &str| {
        if addresses.last() == Some(&address) {
            last
        } else {
            last.other()
        }
    };
    let time = |text: &str| seconds(text.parse().ok()?);
    let times = statuses.zip(to_head.zip(to_end));
    let attempts = addresses
        .iter()
        .zip(times)
        .map(|(address, (status, (to_head, to_end)))| Attempt {
            color: color_of(address),
            status: status.parse().ok(),
            to_head: time(to_head),
            to_end: time(to_end),
        });
    attempts.collect()
}

/// The values of each attempt. A request that nginx restarted separates its attempts by colons.
fn of_attempts(values: &str) -> impl Iterator<Item = &str> {
    let values = values.split(", ").flat_map(|part| part.split(" : "));
    values.map(str::trim).filter(|value| !value.is_empty())
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

    const LINE: &str = r#"{"time":"2026-01-01T00:00:00+00:00","seconds":1.0,"request_id":"r1","method":"POST","uri":"/predict?a=b","status":200,"wanted":"green","answered":"blue","client":"curl/8","remote_addr":"192.0.2.1","pid":7,"connection":3,"connection_requests":1,"label":"a \"b\"","version":"v2","digest":"","upstream_addr":"127.0.0.1:8082, 127.0.0.1:8081","upstream_status":"502, 200","upstream_connect_time":"-, 0.000","upstream_header_time":"-, 0.001","upstream_response_time":"0.001, 0.002","upstream_response_length":"0, 90","upstream_content_length":"90","request_time":0.003,"request_length":150,"bytes_sent":200}"#;
    const USER_AGENT: &str = "deployer/0 (token)";

    fn parsed(line: &str) -> Request {
        parse(line, USER_AGENT).unwrap()
    }

    fn log_at(path: &Path) -> AccessLog {
        let state = path.parent().unwrap();
        AccessLog::new(path, Arc::new(UserAgent::of_installation(state)))
    }

    #[test]
    fn log_line_lists_attempts_in_order() {
        let milliseconds = |count| Some(Duration::from_millis(count));
        let failed = Attempt {
            color: Color::Green,
            status: Some(502),
            to_head: None,
            to_end: milliseconds(1),
        };
        let answered = Attempt {
            color: Color::Blue,
            status: Some(200),
            to_head: milliseconds(1),
            to_end: milliseconds(2),
        };
        assert_eq!(
            parsed(LINE),
            Request {
                id: "r1".to_owned(),
                at: 1.0,
                by_deployer: false,
                client: "192.0.2.1".to_owned(),
                route: predict(),
                size: 150,
                wanted: Some(Color::Green),
                attempts: vec![failed, answered],
                cut: false,
                status: 200,
                waited: Duration::from_millis(3),
                answer_size: 90,
                promised_size: Some(90),
                label: Some("a \"b\"".to_owned()),
                version: Some("v2".to_owned()),
                digest: None,
            }
        );
    }

    #[test]
    fn own_requests_are_recognized_by_user_agent() {
        assert!(!parsed(LINE).by_deployer);
        assert!(parsed(&LINE.replace("curl/8", USER_AGENT)).by_deployer);
        // Another installation's deployer is a client.
        assert!(!parsed(&LINE.replace("curl/8", "deployer/0 (other)")).by_deployer);
    }

    #[test]
    fn attempt_without_answer_has_no_status_and_no_head() {
        let line = LINE
            .replace("\"127.0.0.1:8082, 127.0.0.1:8081\"", "\"127.0.0.1:8082\"")
            .replace("\"answered\":\"blue\"", "\"answered\":\"green\"")
            .replace("\"502, 200\"", "\"-\"")
            .replace("\"-, 0.001\"", "\"-\"")
            .replace("\"0.001, 0.002\"", "\"0.700\"");
        let attempt = Attempt {
            color: Color::Green,
            status: None,
            to_head: None,
            to_end: Some(Duration::from_millis(700)),
        };
        assert_eq!(parsed(&line).attempts, [attempt]);
    }

    #[test]
    fn request_that_no_color_was_asked_for_has_no_attempts() {
        let line = LINE
            .replace("\"127.0.0.1:8082, 127.0.0.1:8081\"", "\"\"")
            .replace("\"502, 200\"", "\"\"")
            .replace("\"answered\":\"blue\"", "\"answered\":\"\"");
        assert_eq!(parsed(&line).attempts, []);
        let scanner = line.replace("\"wanted\":\"green\"", "\"wanted\":\"\"");
        assert_eq!(parsed(&scanner).wanted, None);
    }

    #[test]
    fn restarted_request_lists_all_attempts() {
        let line = LINE
            .replace(
                "\"127.0.0.1:8082, 127.0.0.1:8081\"",
                "\"127.0.0.1:8082, 127.0.0.1:8081 : 127.0.0.1:8081\"",
            )
            .replace("\"502, 200\"", "\"504, 502 : 200\"");
        let attempts = parsed(&line).attempts;
        let statuses: Vec<_> = attempts.iter().map(|attempt| attempt.status).collect();
        assert_eq!(statuses, [Some(504), Some(502), Some(200)]);
        let colors: Vec<_> = attempts.iter().map(|attempt| attempt.color).collect();
        assert_eq!(colors, [Color::Green, Color::Blue, Color::Blue]);
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
        let log = log_at(&path);
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
        let log = log_at(&path);
        let (requests, unparsable, next) = read(&log, None).await;
        assert_eq!((requests, unparsable), (2, 1));
        assert_eq!(read(&log, None).await, (2, 1, next));
        assert_eq!(read(&log, next).await, (0, 0, next));
    }

    #[tokio::test]
    async fn long_log_is_read_from_a_line_boundary_near_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\n").repeat(100_000)).unwrap();
        let (requests, unparsable, _) = read(&log_at(&path), None).await;
        assert!((30_000..70_000).contains(&requests), "{requests}");
        assert_eq!(unparsable, 0);
    }

    #[tokio::test]
    async fn requests_of_the_last_15_minutes_are_recent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let at = |seconds: &str| LINE.replace("\"seconds\":1.0", &format!("\"seconds\":{seconds}"));
        let lines = [at("99.9"), at("100.0"), at("1000.0")].join("\n");
        std::fs::write(&path, lines + "\n").unwrap();
        let log = log_at(&path);
        assert_eq!(read(&log, None).await.0, 2);
        assert_eq!(read(&log, Some(LogCursor::at(0))).await.0, 3);
    }

    #[tokio::test]
    async fn emptied_log_is_read_from_its_beginning() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\n{LINE}\n")).unwrap();
        let log = log_at(&path);
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
        let log = log_at(Path::new("no/such.log"));
        let error = log.read(None).await.unwrap_err();
        assert!(error.to_string().contains("no/such.log"));
    }
}
