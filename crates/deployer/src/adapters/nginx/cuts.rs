//! Joins the access log with the error log: which answers broke off?
//!
//! nginx logs an answer that broke off like a whole one: with the status of its head. Only its error log tells, by the
//! connection and the second.

use std::collections::{HashMap, HashSet};

use crate::{
    adapters::nginx::error_log::{Connection, CutLine},
    evidence::request::Request,
};

/// A request, with what joins it to the error log.
#[derive(Debug, Clone)]
pub(super) struct LoggedRequest {
    pub(super) request: Request,
    pub(super) connection: Connection,
    /// The number of the request on its connection.
    pub(super) number: u64,
    /// The router's local time minus UTC, in seconds.
    pub(super) utc_offset: i64,
}

impl LoggedRequest {
    /// Whether the answer of this request can be the one that broke off.
    ///
    /// The request was being answered in the second of the line. So a line never matches a request to a later run of the
    /// router, which uses the same numbers again.
    fn can_match(&self, line: &CutLine) -> bool {
        // The access log has milliseconds.
        const ROUNDING: f64 = 0.002;

        let request = &self.request;
        let second = (line.local_second - self.utc_offset) as f64;
        self.connection == line.connection
            && !request.cut
            && self.has_body()
            && self.is_complete() != Some(true)
            && request.began() < second + 1.0 + ROUNDING
            && request.at > second - ROUNDING
            && line.stream.as_ref().is_none_or(|it| *it == request.route)
    }

    /// Whether an answer to this request began that may have a body.
    fn has_body(&self) -> bool {
        let last = self.request.attempts.last();
        let status = last.and_then(|last| last.to_head.and(last.status));
        self.request.route.method != "HEAD"
            && status.is_some_and(|status| status != 204 && status != 304)
    }

    /// Whether the whole answer arrived; `None` if its head promised no size.
    fn is_complete(&self) -> Option<bool> {
        let promised = self.request.promised_size?;
        Some(self.request.answer_size >= promised)
    }
}

/// Marks the requests whose answers broke off. Holds requests back for about two seconds, until that is known.
#[derive(Debug, Clone, Default)]
pub(super) struct CutJoin {
    /// Lines whose requests were not found yet, in the order of the error log.
    lines: Vec<CutLine>,
    /// Requests that may belong to one of these lines.
    held: Vec<LoggedRequest>,
    /// The router's local time minus UTC, in seconds, by the last request; `None` before the first one.
    utc_offset: Option<i64>,
}

impl CutJoin {
    /// Returns the requests whose endings are known at `now` (in seconds since 1970), in the order of the access log.
    ///
    /// `lines` must contain all lines that were written before the last one of `requests`.
    pub(super) fn join(
        &mut self,
        lines: Vec<CutLine>,
        requests: Vec<LoggedRequest>,
        now: f64,
    ) -> Vec<Request> {
        self.lines.extend(lines);
        self.utc_offset = requests
            .last()
            .map(|last| last.utc_offset)
            .or(self.utc_offset);
        let mut logged = std::mem::take(&mut self.held);
        logged.extend(requests);
        let by_connection = self.index(&logged);
        if let Some(offset) = self.utc_offset {
            self.lines.retain(|line| {
                let age = now - (line.local_second - offset) as f64;
                let on_connection = by_connection.get(&line.connection);
                age < FLUSHED || !mark(line, on_connection, &mut logged) && age < EXPIRED
            });
        }
        self.limit_lines();
        let matching = |line: &CutLine| {
            let indices = by_connection.get(&line.connection).into_iter().flatten();
            let matching = indices.filter(|index| logged[**index].can_match(line));
            matching.copied().collect::<Vec<_>>()
        };
        let held: HashSet<usize> = self.lines.iter().flat_map(matching).collect();
        let mut known = Vec::with_capacity(logged.len() - held.len());
        for (index, logged) in logged.into_iter().enumerate() {
            if held.contains(&index) {
                self.held.push(logged);
            } else {
                known.push(logged.request);
            }
        }
        known
    }

    /// The indices of the requests on each connection that a line names.
    fn index(&self, logged: &[LoggedRequest]) -> HashMap<Connection, Vec<usize>> {
        let connections = self.lines.iter().map(|line| line.connection);
        let mut indices: HashMap<_, Vec<_>> = connections
            .map(|connection| (connection, Vec::new()))
            .collect();
        for (index, logged) in logged.iter().enumerate() {
            if let Some(indices) = indices.get_mut(&logged.connection) {
                indices.push(index);
            }
        }
        indices
    }

    /// Lines about requests to the control port, which has no access log, find no request.
    fn limit_lines(&mut self) {
        const MAX_LINES: usize = 10_000;

        let surplus = self.lines.len().saturating_sub(MAX_LINES);
        self.lines.drain(..surplus);
    }
}

/// Seconds after which nginx has flushed the access line of a request that ended in the same second as a line of the
/// error log. It flushes every 500 ms.
const FLUSHED: f64 = 2.0;

/// Seconds after which no request is looked for any more. A request ends after its answer broke off, if its client still
/// reads what the router had received before. Clocks that change to or from daylight saving time add an hour.
const EXPIRED: f64 = 7_200.0;

/// Marks the request that this line is about. Returns whether there is one among `indices`.
fn mark(line: &CutLine, indices: Option<&Vec<usize>>, logged: &mut [LoggedRequest]) -> bool {
    let indices = indices.into_iter().flatten().copied();
    let matching = indices.filter(|index| logged[*index].can_match(line));
    let found = if line.stream.is_none() {
        // nginx closes the connection after an answer that broke off, so it is the last one.
        matching.max_by_key(|index| logged[*index].number)
    } else {
        // Several requests of one route may fit. The first one to end leaves the others to later lines.
        matching.min_by(|one, other| {
            let [one, other] = [one, other].map(|index| logged[*index].request.at);
            one.total_cmp(&other)
        })
    };
    if let Some(index) = found {
        logged[index].request.cut = true;
    }
    found.is_some()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        color::Color,
        evidence::request::{Route, answered_by, predict},
    };

    const CONNECTION: Connection = Connection { pid: 7, number: 3 };

    /// A chunked answer to the request with this number on the connection, which began and ended then.
    fn request(number: u64, began: f64, at: f64) -> LoggedRequest {
        let request = Request {
            id: number.to_string(),
            at,
            waited: Duration::from_secs_f64(at - began),
            ..answered_by(Color::Blue, 200)
        };
        LoggedRequest {
            request,
            connection: CONNECTION,
            number,
            utc_offset: 3600,
        }
    }

    /// A line of this second in UTC.
    fn line(second: i64, stream: Option<Route>) -> CutLine {
        CutLine {
            local_second: second + 3600,
            connection: CONNECTION,
            stream,
        }
    }

    /// The requests that are known to be cut at 20.0.
    fn cut(lines: Vec<CutLine>, requests: Vec<LoggedRequest>) -> Vec<String> {
        let known = CutJoin::default().join(lines, requests, 20.0);
        let cut = known.into_iter().filter(|request| request.cut);
        cut.map(|request| request.id).collect()
    }

    #[test]
    fn last_request_of_connection_is_cut() {
        let requests = vec![request(2, 10.3, 10.5), request(1, 10.1, 10.2)];
        assert_eq!(cut(vec![line(10, None)], requests), ["2"]);
    }

    #[test]
    fn line_matches_only_requests_of_its_second() {
        for (began, at, expected) in [
            (8.0, 9.9, 0),
            (9.0, 10.0, 1),
            (10.9, 10.95, 1),
            (9.0, 15.0, 1),
            // Of a later run of the router.
            (11.1, 11.2, 0),
        ] {
            let cut = cut(vec![line(10, None)], vec![request(1, began, at)]);
            assert_eq!(cut.len(), expected, "{began} {at}");
        }
    }

    fn promise_100_bytes(request: &mut Request, answer_size: u64) {
        request.promised_size = Some(100);
        request.answer_size = answer_size;
    }

    #[test]
    fn whole_answers_and_answers_without_a_body_are_not_cut() {
        let with = |change: fn(&mut Request)| {
            let mut last = request(2, 10.3, 10.5);
            change(&mut last.request);
            cut(vec![line(10, None)], vec![request(1, 10.1, 10.2), last])
        };
        assert_eq!(with(|_| {}), ["2"]);
        assert_eq!(with(|it| promise_100_bytes(it, 99)), ["2"]);
        assert_eq!(with(|it| promise_100_bytes(it, 100)), ["1"]);
        assert_eq!(with(|it| it.route.method = "HEAD".to_owned()), ["1"]);
        assert_eq!(with(|it| it.attempts[0].status = Some(304)), ["1"]);
        assert_eq!(with(|it| it.attempts[0].to_head = None), ["1"]);
        assert_eq!(with(|it| it.attempts.clear()), ["1"]);
    }

    #[test]
    fn streams_of_one_connection_are_told_apart_by_route_and_end() {
        let other = Route {
            path: "/other".to_owned(),
            ..predict()
        };
        let requests = || {
            let mut of_other = request(4, 10.0, 10.1);
            of_other.request.route = other.clone();
            vec![request(3, 10.0, 11.5), request(2, 10.0, 10.5), of_other]
        };
        let lines = |routes: &[(i64, Route)]| {
            let lines = routes.iter().cloned();
            lines
                .map(|(second, route)| line(second, Some(route)))
                .collect()
        };
        assert_eq!(cut(lines(&[(10, predict())]), requests()), ["2"]);
        assert_eq!(cut(lines(&[(10, other.clone())]), requests()), ["4"]);
        let both = [(10, predict()), (11, predict())];
        assert_eq!(cut(lines(&both), requests()), ["3", "2"]);
    }

    #[test]
    fn only_requests_that_may_be_cut_are_held_back() {
        let mut join = CutJoin::default();
        let mut elsewhere = request(9, 10.1, 10.2);
        elsewhere.connection.number += 1;
        let requests = vec![elsewhere, request(1, 8.0, 9.0), request(2, 10.1, 10.2)];
        let ids = |known: Vec<Request>| known.into_iter().map(|it| it.id).collect::<Vec<_>>();
        let mut join_at = |lines, requests, now| ids(join.join(lines, requests, now));
        assert_eq!(join_at(vec![line(10, None)], requests, 11.9), ["9", "1"]);
        assert_eq!(join_at(vec![], vec![], 11.9), [""; 0]);
        assert_eq!(
            join_at(vec![], vec![request(3, 10.3, 10.4)], 12.0),
            ["2", "3"]
        );
        assert_eq!(join_at(vec![], vec![], 20.0), [""; 0]);
    }

    #[test]
    fn line_waits_for_slow_client_and_then_expires() {
        for (at, expected) in [(600.0, true), (EXPIRED + 11.0, false)] {
            let mut join = CutJoin::default();
            // The first request tells the time zone.
            join.join(vec![line(10, None)], vec![request(1, 8.0, 9.0)], 11.0);
            join.join(vec![], vec![], at);
            let known = join.join(vec![], vec![request(2, 10.1, at)], at);
            assert_eq!(known[0].cut, expected);
            assert_eq!(join.lines, []);
        }
    }

    #[test]
    fn lines_that_find_no_request_are_bounded() {
        let mut join = CutJoin::default();
        for _ in 0..11 {
            join.join(vec![line(10, None); 1_000], vec![], 12.0);
        }
        assert_eq!(join.lines.len(), 10_000);
    }
}
