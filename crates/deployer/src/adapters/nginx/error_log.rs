//! Recognizes answers that broke off, in the error log of the router.

use jiff::{civil::DateTime, tz::TimeZone};

use crate::{adapters::nginx::request_log::route, evidence::request::Route};

/// A client's connection in one run of the router. Both numbers start over when the router restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Connection {
    /// The process ID of the worker.
    pub(super) pid: u32,
    /// The serial number of the connection.
    pub(super) number: u64,
}

/// A line about an answer that broke off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CutLine {
    /// The second in which the answer broke off, on the router's local clock: seconds since 1970, if the clock showed UTC.
    pub(super) local_second: i64,
    /// The connection of the client.
    pub(super) connection: Connection,
    /// What was asked for, if several requests may share the connection at one time (HTTP/2). Over HTTP/1.1 the
    /// connection suffices, so `None`.
    pub(super) stream: Option<Route>,
}

impl CutLine {
    /// Parses a line of the error log. Returns `None` for a line about anything else.
    ///
    /// ```text
    /// 2026/11/26 19:53:19 [error] 12#12: *57 upstream prematurely closed connection while reading upstream, client: ...
    /// ```
    ///
    /// At other levels than error, the router itself has a problem, such as a full disk.
    pub(super) fn parse(line: &str) -> Option<Self> {
        // Most lines of an error log are about something else.
        let (message, details) = line.split_once(", client: ")?;
        let (time, message) = message.split_once(" [error] ")?;
        let (pid, message) = message.split_once('#')?;
        let (_thread, message) = message.split_once(": *")?;
        let (number, message) = message.split_once(' ')?;
        if !is_about_a_cut(message) {
            return None;
        }
        // The referrer comes last, and may contain anything.
        let request = details.split(", upstream: ").next().unwrap_or(details);
        // nginx sends copies of requests as subrequests, and clients receive nothing of their answers.
        if request.contains("\", subrequest: \"") {
            return None;
        }
        Some(Self {
            local_second: local_second(time)?,
            connection: Connection {
                pid: pid.parse().ok()?,
                number: number.parse().ok()?,
            },
            stream: stream(request),
        })
    }
}

/// Whether a message, with what nginx was doing, says that an answer broke off.
///
/// nginx has many messages for that. While it waited for the head of the answer, the attempt failed, and the access log
/// says so.
fn is_about_a_cut(message: &str) -> bool {
    /// nginx may not have noted yet that the head of the answer is complete.
    const ABOUT_A_BODY: &str = "upstream sent invalid chunked response";

    let Some((problem, doing)) = message.split_once(" while ") else {
        return false;
    };
    match doing {
        "reading upstream" => true,
        // nginx passes each part on before it reads the next one, and then notices that no part follows.
        "sending to client" => ["upstream ", "recv() ", "readv() "]
            .iter()
            .any(|beginning| problem.starts_with(beginning)),
        _ => problem == ABOUT_A_BODY,
    }
}

fn local_second(time: &str) -> Option<i64> {
    let time = DateTime::strptime("%Y/%m/%d %H:%M:%S", time).ok()?;
    let as_utc = time.to_zoned(TimeZone::UTC).ok()?;
    Some(as_utc.timestamp().as_second())
}

/// Returns the route of a request over HTTP/2 or later. A line of the error log ends after 2 KiB, so a long path may lack
/// its end, and then the protocol is missing too.
fn stream(details: &str) -> Option<Route> {
    let (_, request) = details.split_once(", request: \"")?;
    let (method, request) = request.split_once(' ')?;
    let (uri, protocol) = request.split_once(' ')?;
    let multiplexed = !protocol.starts_with("HTTP/1.") && protocol.starts_with("HTTP/");
    multiplexed.then(|| route(method, uri))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2026/11/26 19:53:19 [error] 1234#1234: *57 upstream prematurely closed connection while reading upstream, client: 127.0.0.1, server: , request: \"POST /predict?a=b HTTP/1.1\", upstream: \"http://127.0.0.1:8082/predict?a=b\", host: \"localhost\", referrer: \"x\", subrequest: \"/copied\"";

    #[test]
    fn line_of_cut_answer_names_second_and_connection() {
        let expected = CutLine {
            local_second: 1_795_722_799,
            connection: Connection {
                pid: 1234,
                number: 57,
            },
            stream: None,
        };
        assert_eq!(CutLine::parse(LINE), Some(expected));
    }

    #[test]
    fn every_message_about_a_cut_answer_is_recognized() {
        for message in [
            "upstream prematurely closed connection",
            "recv() failed (104: Connection reset by peer)",
            "readv() failed (104: Connection reset by peer)",
            "upstream timed out (110: Connection timed out)",
            "upstream sent invalid chunked response",
        ] {
            let line = LINE.replace("upstream prematurely closed connection", message);
            assert!(CutLine::parse(&line).is_some(), "{line}");
            let line = line.replace("while reading upstream", "while sending to client");
            assert!(CutLine::parse(&line).is_some(), "{line}");
        }
        let first_chunk = LINE.replace(
            "upstream prematurely closed connection while reading upstream",
            "upstream sent invalid chunked response while reading response header from upstream",
        );
        assert!(CutLine::parse(&first_chunk).is_some());
    }

    #[test]
    fn other_messages_are_ignored() {
        for (part, other) in [
            // The attempt failed, and the access log says so.
            (
                "while reading upstream",
                "while reading response header from upstream",
            ),
            ("while reading upstream", "while connecting to upstream"),
            (
                "while reading upstream",
                "while sending request to upstream",
            ),
            // The client disconnected.
            (
                "upstream prematurely closed connection while reading upstream",
                "writev() failed (32: Broken pipe) while sending to client",
            ),
            // The router's own problems.
            ("[error]", "[crit]"),
            ("[error]", "[warn]"),
            (
                "\", upstream: ",
                "\", subrequest: \"/.blue-green/copy\", upstream: ",
            ),
            ("2026/11/26", "2026/13/26"),
            (": *57 ", ": "),
            ("1234#", "x#"),
        ] {
            let line = LINE.replacen(part, other, 1);
            assert_ne!(line, LINE);
            assert_eq!(CutLine::parse(&line), None, "{line}");
        }
        for length in 0..LINE.find("client: ").unwrap() {
            assert_eq!(CutLine::parse(&LINE[..length]), None);
        }
    }

    #[test]
    fn stream_of_shared_connection_has_its_route() {
        let stream = |line: &str| CutLine::parse(line).unwrap().stream;
        let predict = crate::evidence::request::predict();
        assert_eq!(stream(&LINE.replace("HTTP/1.1", "HTTP/2.0")), Some(predict));
        // nginx does not escape the request, and cuts the line.
        let odd = LINE.replace("/predict?a=b HTTP/1.1", "/a\"b HTTP/2.0");
        assert_eq!(stream(&odd).unwrap().path, "/a\"b");
        let (cut, _) = LINE.split_once("dict?").unwrap();
        assert_eq!(stream(cut), None);
    }
}
