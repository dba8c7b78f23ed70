//! Reads a log of the router while it grows.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    adapters::{
        nginx::{
            cuts::{CutJoin, LoggedRequest},
            error_log::{Connection, CutLine},
            log_file::read_lines,
        },
        user_agent::UserAgent,
    },
    color::Color,
    evidence::request::{Attempt, Request, Route},
    ports::{LogCursor, LogPart, PortError, RequestLog},
};

/// An access log of nginx, and the error log that tells which answers broke off.
pub(crate) struct AccessLog {
    path: PathBuf,
    error_log: Option<PathBuf>,
    user_agent: Arc<UserAgent>,
}

/// What a reader has read, and was not told yet.
#[derive(Debug, Clone, Default)]
struct Pending {
    /// The position in the error log; `None` before the first read.
    error_position: Option<u64>,
    cuts: CutJoin,
}

impl AccessLog {
    /// A log that knows its deployer by the user agent. Without an error log, an answer that broke off looks like a whole
    /// one.
    pub(crate) fn new(path: &Path, error_log: Option<&Path>, user_agent: Arc<UserAgent>) -> Self {
        Self {
            path: path.to_owned(),
            error_log: error_log.map(Path::to_owned),
            user_agent,
        }
    }

    /// Reads on from `after`, or recent requests. `now` is in seconds since 1970.
    pub(super) fn read_at(
        &self,
        now: f64,
        after: Option<&LogCursor>,
    ) -> Result<LogPart, PortError> {
        let pending = after.and_then(LogCursor::pending::<Pending>);
        let mut pending = pending.cloned().unwrap_or_default();
        let log = read_lines(&self.path, after.map(LogCursor::position)).map_err(|error| {
            unreadable(
                &self.path,
                &error,
                "set router.access_log to \"\" to judge without it",
            )
        })?;
        let user_agent = self.user_agent.get();
        let (mut logged, mut unparsable) = (Vec::new(), 0);
        for line in log.text.lines() {
            match parse(line, user_agent) {
                Some(request) => logged.push(request),
                None => unparsable += 1,
            }
        }
        // The error log is read later: nginx writes an answer's line there before the one in the access log.
        let (lines, problem) = match self.new_cut_lines(&mut pending) {
            Ok(lines) => (lines, None),
            // The access log alone is evidence too.
            Err(error) => (Vec::new(), Some(error)),
        };
        let mut requests = pending.cuts.join(lines, logged, now);
        if after.is_none() {
            keep_recent(&mut requests);
        }
        Ok(LogPart {
            requests,
            unparsable,
            next: LogCursor::at(log.next).with_pending(pending),
            problem,
            missing: None,
        })
    }

    fn new_cut_lines(&self, pending: &mut Pending) -> Result<Vec<CutLine>, PortError> {
        let Some(path) = &self.error_log else {
            return Ok(Vec::new());
        };
        let log = read_lines(path, pending.error_position).map_err(|error| {
            unreadable(path, &error, "answers that break off count as whole ones; set router.error_log to \"\" to accept that")
        })?;
        pending.error_position = Some(log.next);
        Ok(log.text.lines().filter_map(CutLine::parse).collect())
    }
}

fn unreadable(path: &Path, error: &io::Error, advice: &str) -> PortError {
    let path = path.display();
    PortError::of_file(
        error,
        format!("cannot read the router's log {path}: {error}; {advice}"),
    )
}

#[async_trait]
impl RequestLog for AccessLog {
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
        let now = Timestamp::now().as_duration().as_secs_f64();
        self.read_at(now, after.as_ref())
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
    time: &'a str,
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
    pid: u32,
    connection: u64,
    connection_requests: u64,
    label: String,
    version: String,
    digest: String,
    upstream_addr: &'a str,
    upstream_status: &'a str,
    upstream_header_time: &'a str,
    upstream_response_time: &'a str,
    upstream_response_length: &'a str,
    upstream_content_length: &'a str,
    #[serde(default)]
    content_type: String,
    completion: Option<&'a str>,
    request_time: f64,
    request_length: u64,
}

fn parse(line: &str, user_agent: &str) -> Option<LoggedRequest> {
    let line: Line<'_> = serde_json::from_str(line).ok()?;
    Some(LoggedRequest {
        connection: Connection {
            pid: line.pid,
            number: line.connection,
        },
        number: line.connection_requests,
        utc_offset: utc_offset(line.time)?,
        request: request(line, user_agent)?,
    })
}

fn request(line: Line<'_>, user_agent: &str) -> Option<Request> {
    let wanted = color(line.wanted);
    let attempts = wanted.map_or_else(Vec::new, |wanted| attempts(&line, wanted));
    let text = |text: String| (!text.is_empty()).then_some(text);
    Some(Request {
        id: line.request_id,
        at: line.seconds,
        by_deployer: line.client == user_agent,
        client: line.remote_addr,
        route: route(line.method, &line.uri),
        size: line.request_length,
        attempts,
        wanted,
        cut: false,
        streamed: is_event_stream(&line.content_type),
        disconnected: line.completion == Some(""),
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

/// Whether the last answer is a stream of server-sent events.
fn is_event_stream(content_types: &str) -> bool {
    let last = of_attempts(content_types).last().unwrap_or_default();
    last.to_ascii_lowercase().starts_with("text/event-stream")
}

/// The route of a request, whose URI may have a query.
pub(super) fn route(method: &str, uri: &str) -> Route {
    Route {
        method: method.to_owned(),
        path: uri.split('?').next().unwrap_or_default().to_owned(),
    }
}

/// Returns the local time minus UTC, in seconds, of a time such as `2026-01-01T00:00:00+05:30`.
fn utc_offset(time: &str) -> Option<i64> {
    let (hours, minutes) = time.get(time.len().checked_sub(6)?..)?.split_once(':')?;
    let offset = hours.get(1..)?.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60;
    match hours.get(..1)? {
        "+" => Some(offset),
        "-" => Some(-offset),
        _ => None,
    }
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
    let addresses = of_attempts(line.upstream_addr);
    let statuses = of_attempts(line.upstream_status).chain(std::iter::repeat("-"));
    let to_head = of_attempts(line.upstream_header_time).chain(std::iter::repeat("-"));
    let to_end = of_attempts(line.upstream_response_time).chain(std::iter::repeat("-"));
    let time = |text: &str| seconds(text.parse().ok()?);
    let times = statuses.zip(to_head.zip(to_end));
    let mut logged: Vec<_> = addresses.zip(times).collect();
    // If no server is left to ask, nginx logs the name of the pool, as if it were one more attempt.
    let is_server = |address: &str| address.contains(':');
    if logged.iter().any(|(address, _)| is_server(address)) {
        logged.retain(|(address, _)| is_server(address));
    }
    // The log names the color of the last server. If there was no server to ask, it names none.
    let last = color(line.answered).unwrap_or(wanted);
    let last_address = logged.last().map(|(address, _)| *address);
    let color_of = |address: &str| {
        if last_address == Some(address) {
            last
        } else {
            last.other()
        }
    };
    let attempts = logged
        .into_iter()
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
    use std::{fs::File, io::Write as _};

    use super::*;
    use crate::evidence::request::predict;

    const LINE: &str = r#"{"time":"2026-01-01T00:00:00+00:00","seconds":1.0,"request_id":"r1","method":"POST","uri":"/predict?a=b","status":200,"wanted":"green","answered":"blue","client":"curl/8","remote_addr":"192.0.2.1","pid":7,"connection":3,"connection_requests":1,"label":"a \"b\"","version":"v2","digest":"","upstream_addr":"127.0.0.1:8082, 127.0.0.1:8081","upstream_status":"502, 200","upstream_connect_time":"-, 0.000","upstream_header_time":"-, 0.001","upstream_response_time":"0.001, 0.002","upstream_response_length":"0, 90","upstream_content_length":"90","request_time":0.003,"request_length":150,"bytes_sent":200}"#;
    const USER_AGENT: &str = "deployer/0 (token)";

    fn parsed(line: &str) -> Request {
        parse(line, USER_AGENT).unwrap().request
    }

    fn log_at(path: &Path) -> AccessLog {
        let state = path.parent().unwrap();
        AccessLog::new(path, None, Arc::new(UserAgent::of_installation(state)))
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
                streamed: false,
                disconnected: false,
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
    fn pool_without_a_server_left_is_no_attempt_on_a_color() {
        let none_left = LINE.replace("\"answered\":\"blue\"", "\"answered\":\"\"");
        let addresses = "\"127.0.0.1:8082, 127.0.0.1:8081\"";
        let passed_over = LINE.replace(addresses, "\"127.0.0.1:8081, green_then_blue\"");
        let colors = |line: &str| -> Vec<Color> {
            let attempts = parsed(line).attempts.into_iter();
            attempts.map(|attempt| attempt.color).collect()
        };
        assert_eq!(colors(&passed_over), [Color::Blue]);
        let both = "\"127.0.0.1:8082, 127.0.0.1:8081, green_then_blue\"";
        let both_failed = LINE.replace(addresses, both);
        assert_eq!(colors(&both_failed), [Color::Green, Color::Blue]);
        // The active color has no server at all.
        let absent = none_left.replace(addresses, "\"green\"");
        assert_eq!(colors(&absent), [Color::Green]);
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
    async fn read(log: &AccessLog, after: Option<&LogCursor>) -> (usize, u64, LogCursor) {
        let part = log.read(after.cloned()).await.unwrap();
        (part.requests.len(), part.unparsable, part.next)
    }

    /// The same, where nothing was logged since.
    async fn assert_nothing_new(log: &AccessLog, after: &LogCursor) {
        let (requests, unparsable, next) = read(log, Some(after)).await;
        assert_eq!((requests, unparsable), (0, 0));
        assert_eq!(next.position(), after.position());
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
        assert_nothing_new(&log, &next).await;
        write!(file, "{LINE}\n{}", &LINE[..40]).unwrap();
        let (requests, _, next) = read(&log, Some(&next)).await;
        assert_eq!(requests, 1);
        assert_nothing_new(&log, &next).await;
        writeln!(file, "{}", &LINE[40..]).unwrap();
        assert_eq!(read(&log, Some(&next)).await.0, 1);
    }

    #[tokio::test]
    async fn readers_of_one_log_do_not_disturb_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        std::fs::write(&path, format!("{LINE}\nnot a log line\n{LINE}\n")).unwrap();
        let log = log_at(&path);
        let (requests, unparsable, next) = read(&log, None).await;
        assert_eq!((requests, unparsable), (2, 1));
        let (requests, unparsable, of_other) = read(&log, None).await;
        assert_eq!((requests, unparsable), (2, 1));
        assert_eq!(of_other.position(), next.position());
        assert_nothing_new(&log, &next).await;
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
        assert_eq!(read(&log, Some(&LogCursor::at(0))).await.0, 3);
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
        assert_eq!(read(&log, Some(&next)).await.0, 1);
    }

    #[tokio::test]
    async fn missing_log_is_named_in_error() {
        let log = log_at(Path::new("no/such.log"));
        let error = log.read(None).await.unwrap_err();
        assert!(error.to_string().contains("no/such.log"));
    }

    const CUT: &str = "1970/01/01 05:30:01 [error] 7#7: *3 upstream prematurely closed connection while reading upstream, client: 192.0.2.1, server: , request: \"POST /predict?a=b HTTP/1.1\", upstream: \"http://127.0.0.1:8081/predict?a=b\", host: \"a\"";

    /// A log with one chunked answer that broke off, and its directory. The router runs in India.
    fn log_with_cut() -> (AccessLog, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let [path, error_path] = ["access.log", "error.log"].map(|it| directory.path().join(it));
        let line = LINE
            .replace("2026-01-01T00:00:00+00:00", "1970-01-01T05:30:01+05:30")
            .replace(
                "\"upstream_content_length\":\"90\"",
                "\"upstream_content_length\":\"\"",
            );
        std::fs::write(&path, line + "\n").unwrap();
        std::fs::write(&error_path, format!("{CUT}\n")).unwrap();
        let user_agent = Arc::new(UserAgent::of_installation(directory.path()));
        let log = AccessLog::new(&path, Some(&error_path), user_agent);
        (log, directory)
    }

    fn cuts(part: &LogPart) -> Vec<bool> {
        part.requests.iter().map(|request| request.cut).collect()
    }

    #[test]
    fn request_is_held_back_until_its_ending_is_known() {
        let (log, _directory) = log_with_cut();
        let part = log.read_at(2.9, None).unwrap();
        assert_eq!(cuts(&part), [false; 0]);
        assert_eq!(cuts(&log.read_at(3.0, Some(&part.next)).unwrap()), [true]);
        // The cursor still holds the request for a reader that was interrupted.
        let part = log.read_at(3.0, Some(&part.next)).unwrap();
        assert_eq!(cuts(&part), [true]);
        let part = log.read_at(4.0, Some(&part.next)).unwrap();
        assert_eq!(cuts(&part), [false; 0]);
        assert_eq!(cuts(&log.read_at(4.0, None).unwrap()), [true], "recent");
    }

    #[test]
    fn unreadable_error_log_is_a_problem_but_no_error() {
        let (log, directory) = log_with_cut();
        let error_path = directory.path().join("error.log");
        std::fs::rename(&error_path, directory.path().join("away")).unwrap();
        let part = log.read_at(9.0, None).unwrap();
        assert_eq!(cuts(&part), [false]);
        let problem = part.problem.unwrap().to_string();
        assert!(problem.contains("error.log"), "{problem}");
        assert!(problem.contains("router.error_log"), "{problem}");
        std::fs::rename(directory.path().join("away"), &error_path).unwrap();
        assert_eq!(log.read_at(9.0, Some(&part.next)).unwrap().problem, None);
    }

    #[test]
    fn emptied_error_log_is_read_from_its_beginning() {
        let (log, directory) = log_with_cut();
        let part = log.read_at(9.0, None).unwrap();
        let [path, error_path] = ["access.log", "error.log"].map(|it| directory.path().join(it));
        let other = |text: String| text.replace("\"connection\":3", "\"connection\":4");
        std::fs::write(
            &path,
            other(std::fs::read_to_string(&path).unwrap()).replace("r1", "r"),
        )
        .unwrap();
        let line = CUT.replace("*3", "*4").replace("?a=b", "");
        std::fs::write(&error_path, line + "\n").unwrap();
        assert_eq!(cuts(&log.read_at(9.0, Some(&part.next)).unwrap()), [true]);
    }

    #[test]
    fn time_zone_is_read_from_time() {
        for (time, offset) in [
            ("2026-01-01T00:00:00+00:00", Some(0)),
            ("2026-01-01T00:00:00+05:30", Some(19_800)),
            ("2026-01-01T00:00:00-03:30", Some(-12_600)),
            ("2026-01-01T00:00:00Z", None),
            ("", None),
        ] {
            assert_eq!(utc_offset(time), offset, "{time}");
        }
    }
}
