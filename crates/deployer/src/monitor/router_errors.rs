//! Alerts about requests that the router itself failed: no release is to blame, so no deployment and no failover helps.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    adapters::notify::Kind,
    evidence::request::{Ending, Request},
    monitor::service::Monitor,
};

/// The errors are over when the router made none for this long.
const QUIET: Duration = Duration::from_mins(5);

/// What to do about the errors.
const ADVICE: &str = "read the router's error log; if a file could not be written, free space on the router's disk, or enlarge its tmpfs (ROUTER_BUFFER), or lower client_max_body_size (nginx/limits.conf)";

/// Whether the router itself fails requests.
#[derive(Debug, Default)]
pub(super) struct RouterErrors {
    /// The errors so far, and when the last one was seen; `None` before the first error, and after the last one.
    seen: Option<(u64, Instant)>,
}

/// The router began to fail requests, or ended to do so. An alert says it in these words.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Began(String),
    Ended(String),
}

impl RouterErrors {
    /// Continues after an earlier monitor, which alerted about errors if they `last`.
    pub(super) fn resume(last: bool) -> Self {
        Self {
            seen: last.then(|| (0, Instant::now())),
        }
    }

    /// Records what was logged since the last round. Returns what an alert must say.
    fn record(&mut self, requests: &[Request], now: Instant) -> Option<Change> {
        let (count, examples) = errors(requests);
        match &mut self.seen {
            None if count == 0 => None,
            None => {
                self.seen = Some((count, now));
                let requests = counted(count);
                Some(Change::Began(format!(
                    "the router itself failed {requests} and asked no color: {examples}; {ADVICE}"
                )))
            }
            Some((so_far, last)) if count > 0 => {
                (*so_far, *last) = (*so_far + count, now);
                None
            }
            Some((_, last)) if now.duration_since(*last) < QUIET => None,
            Some((so_far, _)) => {
                let requests = counted(*so_far);
                self.seen = None;
                Some(Change::Ended(format!(
                    "the router itself failed no request for {}; since the alert or the start of the monitor it failed {requests}",
                    humantime::format_duration(QUIET)
                )))
            }
        }
    }
}

/// The number of errors of the router, and the most frequent of them in words.
fn errors(requests: &[Request]) -> (u64, String) {
    const MAX_SHOWN: usize = 3;
    /// A client may ask for any path.
    const LONGEST_ROUTE: usize = 80;

    let failed = requests.iter().filter(|request| {
        let by_router = matches!(request.ending(), Some((_, Ending::ByRouter)));
        by_router && request.status >= 500
    });
    let mut counts = BTreeMap::new();
    for request in failed {
        let key = (request.status, &request.route);
        *counts.entry(key).or_insert(0_u64) += 1;
    }
    let total = counts.values().sum();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown = counts.iter().take(MAX_SHOWN);
    let mut words: Vec<String> = shown
        .map(|((status, route), count)| {
            let route = route.to_string();
            format!("{status} on {route:.LONGEST_ROUTE$} ({count})")
        })
        .collect();
    let others: u64 = counts.iter().skip(MAX_SHOWN).map(|(_, count)| count).sum();
    if others > 0 {
        words.push(format!("and {others} others"));
    }
    (total, words.join(", "))
}

fn counted(requests: u64) -> String {
    match requests {
        1 => "1 request".to_owned(),
        _ => format!("{requests} requests"),
    }
}

impl Monitor<'_> {
    /// Alerts once that the router itself fails requests, and once that this is over.
    pub(super) fn report_router_errors(&mut self, requests: &[Request]) {
        let change = self.router_errors.record(requests, Instant::now());
        let (kind, text) = match change {
            Some(Change::Began(text)) => (Kind::RouterErrors, text),
            Some(Change::Ended(text)) => (Kind::RouterErrorsEnded, text),
            None => return,
        };
        // In this order: a monitor that is killed in between alerts twice instead of never.
        self.alert(kind, None, text);
        self.state.router_errors = kind == Kind::RouterErrors;
        self.save_state();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        color::Color,
        evidence::request::{Route, answered_by},
    };

    /// A prediction that the router answered without asking a color.
    fn by_router(status: u16) -> Request {
        Request {
            attempts: Vec::new(),
            ..answered_by(Color::Green, status)
        }
    }

    #[test]
    fn router_errors_are_alerted_once_and_resolved_when_quiet() {
        let mut errors = RouterErrors::default();
        let begin = Instant::now();
        let mut record = |requests: &[Request], seconds| {
            errors.record(requests, begin + Duration::from_secs(seconds))
        };
        assert_eq!(record(&[], 0), None);
        let Some(Change::Began(text)) = record(&[by_router(500), by_router(500)], 2) else {
            panic!("no alert");
        };
        let expected =
            "the router itself failed 2 requests and asked no color: 500 on POST /predict (2); ";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.contains("client_max_body_size"), "{text}");
        assert_eq!(record(&[by_router(500)], 200), None);
        assert_eq!(record(&[], 499), None);
        let Some(Change::Ended(text)) = record(&[], 500) else {
            panic!("not resolved");
        };
        assert!(text.ends_with("it failed 3 requests"), "{text}");
        assert!(matches!(
            record(&[by_router(500)], 502),
            Some(Change::Began(_))
        ));
    }

    #[test]
    fn router_errors_are_not_those_of_a_color_or_a_client() {
        let before_a_color_was_chosen = Request {
            wanted: None,
            ..by_router(501)
        };
        let too_large = by_router(413);
        let failed = answered_by(Color::Green, 500);
        let logged = [before_a_color_was_chosen, too_large, failed];
        let change = RouterErrors::default().record(&logged, Instant::now());
        assert_eq!(change, None);
    }

    #[test]
    fn router_errors_of_an_earlier_monitor_are_resolved_not_alerted_again() {
        let mut errors = RouterErrors::resume(true);
        let now = Instant::now();
        assert_eq!(errors.record(&[by_router(500)], now), None);
        let later = errors.record(&[], now + QUIET);
        assert!(matches!(later, Some(Change::Ended(_))), "{later:?}");
    }

    #[test]
    fn router_errors_alert_names_only_the_most_frequent() {
        let on = |path: String| Request {
            route: Route {
                path,
                ..by_router(500).route
            },
            ..by_router(500)
        };
        let mut logged: Vec<Request> = (0..5).map(|number| on(format!("/{number}"))).collect();
        let long = format!("/{}", "x".repeat(1_000));
        logged.extend([on(long.clone()), on(long)]);
        let (count, words) = errors(&logged);
        assert_eq!(count, 7);
        let long = format!("POST /{}", "x".repeat(74));
        assert_eq!(
            words,
            format!("500 on {long} (2), 500 on POST /0 (1), 500 on POST /1 (1), and 3 others")
        );
    }
}
