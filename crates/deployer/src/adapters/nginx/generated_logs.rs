//! Generates what a router logs, and tests that every answer that broke off is found, and no other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use jiff::{Timestamp, tz::Offset};

use crate::{
    adapters::{
        nginx::{
            cuts::{CutJoin, LoggedRequest},
            error_log::{Connection, CutLine},
            request_log::{AccessLog, route},
        },
        user_agent::UserAgent,
    },
    color::Color,
    evidence::request::{Attempt, Request},
};

/// When the router starts, in milliseconds since 1970.
const START: u64 = 1_795_726_350_000;

const PROMISED: u64 = 100;

/// How a generated request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    WholeChunked,
    Head,
    Refused,
    /// The client disconnects before the head.
    GaveUp,
    /// The client disconnects during the answer.
    Left,
    LeftChunked,
    Cut,
    CutChunked,
    /// The client still reads for seconds what the router had received before.
    CutForSlowClient,
}

impl End {
    fn is_cut(self) -> bool {
        matches!(self, Self::Cut | Self::CutChunked | Self::CutForSlowClient)
    }

    /// Whether nginx closes a connection over HTTP/1.1 after it.
    fn closes(self) -> bool {
        self.is_cut() || matches!(self, Self::GaveUp | Self::Left | Self::LeftChunked)
    }

    fn status(self) -> u16 {
        match self {
            Self::Refused => 422,
            Self::GaveUp => 499,
            _ => 200,
        }
    }

    fn size(self) -> u64 {
        match self {
            Self::Head | Self::GaveUp => 0,
            Self::Left | Self::Cut | Self::CutForSlowClient => 6,
            _ => PROMISED,
        }
    }

    fn promised(self) -> Option<u64> {
        let without = [
            Self::WholeChunked,
            Self::LeftChunked,
            Self::CutChunked,
            Self::GaveUp,
        ];
        (!without.contains(&self)).then_some(PROMISED)
    }
}

/// A generated request. Times are in milliseconds since 1970.
#[derive(Debug, Clone)]
struct Generated {
    id: String,
    uri: &'static str,
    connection: Connection,
    number: u64,
    http2: bool,
    began: u64,
    /// When the answer broke off, if it did; else when the request ended.
    answered: u64,
    ended: u64,
    /// When its line reaches the access log; `None` if the router is killed before.
    flushed: Option<u64>,
    end: End,
}

/// What a router logs that is killed once and starts again with the same numbers.
struct Generator {
    rng: Rng,
    http2: bool,
    requests: Vec<Generated>,
}

impl Generator {
    /// Generates two runs of at least `count` requests in `length` milliseconds each, in the order in which the lines
    /// reach the access log.
    fn generate(seed: u64, http2: bool, count: usize, length: u64) -> (Vec<Generated>, Rng) {
        let mut generator = Self {
            rng: Rng::with_seed(seed),
            http2,
            requests: Vec::new(),
        };
        for (start, count) in [(START, count), (START + length + 1_100, 2 * count)] {
            let mut number = 0;
            while generator.requests.len() < count {
                number += 1;
                let pid = generator.rng.u32(20..24);
                generator.connection(Connection { pid, number }, start, start + length);
            }
        }
        let Self {
            mut rng,
            mut requests,
            ..
        } = generator;
        // Workers flush in any order.
        rng.shuffle(&mut requests);
        requests.sort_by_key(|request| request.flushed);
        (requests, rng)
    }

    /// Generates the requests of one connection. The router is killed at `killed`.
    fn connection(&mut self, connection: Connection, start: u64, killed: u64) {
        let http2 = self.http2 && self.rng.bool();
        let mut began = self.rng.u64(start..killed);
        for number in 1.. {
            let end = self.end(number);
            let is_long = self.rng.u8(0..20) == 0;
            let answered = began + self.rng.u64(0..if is_long { 3_000 } else { 80 });
            let ended = match end {
                End::CutForSlowClient => answered + self.rng.u64(1_000..30_000),
                _ => answered,
            };
            if ended >= killed || self.rng.u8(0..30) == 0 {
                return;
            }
            // Each worker flushes when its oldest line is 500 ms old.
            let phase = u64::from(connection.pid) * 97 % 500;
            let flushed = (ended + phase).div_ceil(500) * 500 - phase + self.rng.u64(0..20);
            let is_lost = flushed > killed && number == 1 && !http2;
            let id = format!("{}", self.requests.len());
            self.requests.push(Generated {
                id,
                uri: self
                    .rng
                    .choice(["/predict", "/predict?a=b", "/a\"b\\c/é", "/"])
                    .unwrap(),
                connection,
                number,
                http2,
                began,
                answered,
                ended,
                flushed: (!is_lost).then_some(flushed.min(killed)),
                end,
            });
            if end.closes() && !http2 {
                return;
            }
            // Streams overlap.
            began = if http2 { began } else { ended } + self.rng.u64(0..300);
        }
    }

    fn end(&mut self, number: u64) -> End {
        match self.rng.u8(0..100) {
            0..3 => End::Cut,
            3..6 => End::CutChunked,
            // A later request of the connection would be found instead of an earlier chunked one.
            6 if number == 1 => End::CutForSlowClient,
            7..10 => End::GaveUp,
            10..13 => End::Left,
            13..16 => End::LeftChunked,
            16..20 => End::Refused,
            20..24 => End::Head,
            24..50 => End::WholeChunked,
            _ => End::Whole,
        }
    }
}

impl Generated {
    fn logged(&self, utc_offset: i64) -> LoggedRequest {
        let took = Some(Duration::from_millis(self.answered - self.began));
        LoggedRequest {
            request: Request {
                id: self.id.clone(),
                at: seconds(self.ended),
                route: route(self.method(), self.uri),
                wanted: Some(Color::Blue),
                attempts: vec![Attempt {
                    color: Color::Blue,
                    status: (self.end != End::GaveUp).then_some(self.end.status()),
                    to_head: took.filter(|_| self.end != End::GaveUp),
                    to_end: took,
                }],
                status: self.end.status(),
                waited: Duration::from_millis(self.ended - self.began),
                answer_size: self.end.size(),
                promised_size: self.end.promised(),
                ..Request::default()
            },
            connection: self.connection,
            number: self.number,
            utc_offset,
        }
    }

    fn cut_line(&self, utc_offset: i64) -> CutLine {
        CutLine {
            local_second: (self.answered / 1000).cast_signed() + utc_offset,
            connection: self.connection,
            stream: self.http2.then(|| route(self.method(), self.uri)),
        }
    }

    fn method(&self) -> &'static str {
        if self.end == End::Head {
            "HEAD"
        } else {
            "POST"
        }
    }

    /// The line of the access log.
    fn access_line(&self, utc_offset: i64) -> String {
        let json = |text: &str| serde_json::to_string(text).unwrap();
        let (uri, client) = (json(self.uri), json("a \"client\" \\ é\u{1f}"));
        let (head_status, head_time) = match self.end {
            End::GaveUp => ("-".to_owned(), "-".to_owned()),
            _ => (self.end.status().to_string(), "0.000".to_owned()),
        };
        let promised = self
            .end
            .promised()
            .map_or_else(String::new, |size| size.to_string());
        format!(
            r#"{{"time":"{}","seconds":{},"request_id":"{}","method":"{}","uri":{uri},"status":{},"wanted":"blue","answered":"blue","client":{client},"remote_addr":"192.0.2.1","pid":{},"connection":{},"connection_requests":{},"label":"","version":"","digest":"","upstream_addr":"127.0.0.1:8081","upstream_status":"{head_status}","upstream_connect_time":"0.000","upstream_header_time":"{head_time}","upstream_response_time":"{:.3}","upstream_response_length":"{}","upstream_content_length":"{promised}","request_time":{:.3},"request_length":150,"bytes_sent":200}}"#,
            local_time(self.ended, utc_offset, "%Y-%m-%dT%H:%M:%S%:z"),
            format_args!("{}.{:03}", self.ended / 1000, self.ended % 1000),
            self.id,
            self.method(),
            self.end.status(),
            self.connection.pid,
            self.connection.number,
            self.number,
            seconds(self.answered - self.began),
            self.end.size(),
            seconds(self.ended - self.began),
        )
    }

    /// The line of the error log about this request.
    fn error_line(&self, utc_offset: i64, level: &str, message: &str) -> String {
        let Connection { pid, number } = self.connection;
        let protocol = if self.http2 { "2.0" } else { "1.1" };
        format!(
            "{} [{level}] {pid}#{pid}: *{number} {message}, client: 127.0.0.1, server: , request: \"{} {} HTTP/{protocol}\", upstream: \"http://127.0.0.1:8081{}\", host: \"localhost\"",
            local_time(self.answered, utc_offset, "%Y/%m/%d %H:%M:%S"),
            self.method(),
            self.uri,
            self.uri,
        )
    }
}

fn seconds(milliseconds: u64) -> f64 {
    milliseconds as f64 / 1000.0
}

fn local_time(milliseconds: u64, utc_offset: i64, format: &str) -> String {
    let offset = Offset::from_seconds(i32::try_from(utc_offset).unwrap()).unwrap();
    let time = Timestamp::from_millisecond(i64::try_from(milliseconds).unwrap()).unwrap();
    let time = time.to_zoned(offset.to_time_zone());
    jiff::fmt::strtime::format(format, &time).unwrap()
}

/// Compares what was read with what was generated. Over HTTP/2 the log does not tell requests of one route apart.
fn assert_exact(generated: &[Generated], read: &[Request]) {
    let logged = generated.iter().filter(|it| it.flushed.is_some());
    let by_id: BTreeMap<&str, &Generated> = logged.map(|it| (it.id.as_str(), it)).collect();
    let ids: BTreeSet<&str> = read.iter().map(|request| request.id.as_str()).collect();
    assert_eq!(ids.len(), read.len(), "a request was returned twice");
    assert_eq!(ids.len(), by_id.len(), "a request was not returned");
    let name = |request: &Generated| {
        if request.http2 {
            format!("{:?} {}", request.connection, route("POST", request.uri))
        } else {
            request.id.clone()
        }
    };
    let count = |requests: &mut dyn Iterator<Item = &Generated>| {
        let mut counts = BTreeMap::<String, i64>::new();
        for request in requests {
            *counts.entry(name(request)).or_default() += 1;
        }
        counts
    };
    let found = read.iter().filter(|request| request.cut);
    let mut found = count(&mut found.map(|request| by_id[request.id.as_str()]));
    let expected = count(&mut by_id.values().copied().filter(|it| it.end.is_cut()));
    assert!(!expected.is_empty());
    for (name, count) in expected {
        let difference = found.remove(&name).unwrap_or_default() - count;
        assert_eq!(difference, 0, "cut: {name} {:?}", by_id.get(name.as_str()));
    }
    let invented = found.into_iter().next();
    let detail = invented
        .as_ref()
        .and_then(|(name, _)| by_id.get(name.as_str()));
    assert_eq!(invented, None, "not cut: {detail:?}");
}

#[test]
fn join_finds_every_cut_among_200_000_requests() {
    let utc_offset = -5 * 3600;
    let (generated, mut rng) = Generator::generate(1, false, 100_000, 100_000);
    let mut lines: Vec<&Generated> = generated.iter().filter(|it| it.end.is_cut()).collect();
    lines.sort_by_key(|it| it.answered);
    let mut requests = generated
        .iter()
        .filter(|it| it.flushed.is_some())
        .peekable();
    let mut lines = lines.into_iter().peekable();
    let (mut join, mut read, mut now) = (CutJoin::default(), Vec::new(), START);
    while requests.peek().is_some() || lines.peek().is_some() {
        now += rng.u64(10..4_000);
        let mut part = Vec::new();
        while let Some(request) = requests.next_if(|it| it.flushed <= Some(now)) {
            part.push(request.logged(utc_offset));
        }
        // The error log is read later.
        now += rng.u64(0..200);
        let mut new_lines = Vec::new();
        while let Some(line) = lines.next_if(|it| it.answered <= now) {
            new_lines.push(line.cut_line(utc_offset));
        }
        read.extend(join.join(new_lines, part, seconds(now)));
    }
    read.extend(join.join(Vec::new(), Vec::new(), seconds(now) + 3.0));
    assert!(read.len() >= 199_000, "{}", read.len());
    assert_exact(&generated, &read);
}

/// A file that grows by bytes, of which each line is written at its time.
struct GrowingFile {
    file: File,
    lines: std::iter::Peekable<std::vec::IntoIter<(u64, String)>>,
    /// How many bytes of the next line are written.
    written: usize,
}

impl GrowingFile {
    fn new(path: &Path, mut lines: Vec<(u64, String)>) -> Self {
        lines.sort_by_key(|(at, _)| *at);
        Self {
            file: OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)
                .unwrap(),
            lines: lines.into_iter().peekable(),
            written: 0,
        }
    }

    /// Writes all lines up to this time, and the beginning of the next one. Returns whether all lines are written.
    fn grow(&mut self, now: u64, rng: &mut Rng) -> bool {
        let mut text = String::new();
        while let Some((_, line)) = self.lines.next_if(|(at, _)| *at <= now) {
            text.push_str(&line[self.written..]);
            text.push('\n');
            self.written = 0;
        }
        if let Some((_, line)) = self.lines.peek() {
            let end = line.floor_char_boundary(rng.usize(self.written..line.len()));
            text.push_str(&line[self.written..end]);
            self.written = end;
        }
        self.file.write_all(text.as_bytes()).unwrap();
        self.lines.peek().is_none()
    }
}

/// Returns the lines of an error log: about each answer that broke off, and about other things.
fn error_lines(generated: &[Generated], utc_offset: i64, rng: &mut Rng) -> Vec<(u64, String)> {
    const CUTS: [&str; 5] = [
        "upstream prematurely closed connection while reading upstream",
        "recv() failed (104: Connection reset by peer) while reading upstream",
        "readv() failed (104: Connection reset by peer) while reading upstream",
        "upstream timed out (110: Connection timed out) while reading upstream",
        "upstream sent invalid chunked response while reading upstream",
    ];
    const OTHERS: [(&str, &str); 3] = [
        (
            "error",
            "upstream timed out (110: Connection timed out) while reading response header from upstream",
        ),
        (
            "error",
            "connect() failed (111: Connection refused) while connecting to upstream",
        ),
        (
            "crit",
            "pwrite() \"/tmp/1\" failed (28: No space left on device) while reading upstream",
        ),
    ];

    let mut lines = Vec::new();
    for request in generated {
        if request.end.is_cut() {
            let message = rng.choice(CUTS).unwrap();
            lines.push((
                request.answered,
                request.error_line(utc_offset, "error", message),
            ));
        } else if rng.u8(0..10) == 0 {
            let (level, message) = rng.choice(OTHERS).unwrap();
            lines.push((
                request.answered,
                request.error_line(utc_offset, level, message),
            ));
        } else if rng.u8(0..20) == 0 {
            // A request to the control port, which has no access log.
            let mut request = request.clone();
            request.connection.number += 1_000_000;
            lines.push((
                request.answered,
                request.error_line(utc_offset, "error", CUTS[0]),
            ));
        }
    }
    lines
}

#[test]
fn parsed_logs_tell_every_cut_in_200_files() {
    for (seed, utc_offset) in (0..200).zip([0, 19_800, -12_600].into_iter().cycle()) {
        let directory = tempfile::tempdir().unwrap();
        let [path, error_path] =
            ["access.log", "error.log"].map(|name| directory.path().join(name));
        let (generated, mut rng) = Generator::generate(seed, true, 200, 20_000);
        let lines = generated
            .iter()
            .filter_map(|it| Some((it.flushed?, it.access_line(utc_offset))));
        let mut access = GrowingFile::new(&path, lines.collect());
        let mut error =
            GrowingFile::new(&error_path, error_lines(&generated, utc_offset, &mut rng));
        let user_agent = Arc::new(UserAgent::of_installation(directory.path()));
        let log = AccessLog::new(&path, Some(&error_path), user_agent);
        let (mut cursor, mut read, mut now) = (None, Vec::new(), START);
        loop {
            now += rng.u64(10..4_000);
            let all = access.grow(now, &mut rng) & error.grow(now, &mut rng);
            let part = log.read_at(seconds(now), cursor.as_ref()).unwrap();
            assert_eq!((part.unparsable, part.problem), (0, None));
            read.extend(part.requests);
            cursor = Some(part.next);
            if all {
                break;
            }
        }
        read.extend(
            log.read_at(seconds(now) + 3.0, cursor.as_ref())
                .unwrap()
                .requests,
        );
        assert_exact(&generated, &read);
    }
}
