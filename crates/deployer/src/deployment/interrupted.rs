//! Stops a color on which requests may hang, and names the requests that this interrupts.

use std::{collections::BTreeMap, fmt, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    color::Color,
    deployment::{self, rollout::seconds},
    event::{Event, Reporter},
    evidence::request::{Ending, Request},
    ports::{LogCursor, PortError, Ports, Service},
    state::{action::Action, history::HistoryEntry, journal::Journal},
};

/// How long the router's log may take to tell how a request ended: it is flushed each 0.5 s, and the log tells of an answer that
/// broke off 2 s later.
const MAX_WAIT_FOR_LOG: Duration = Duration::from_secs(3);

/// What became of a request that a stop interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterruptedOutcome {
    /// The color had begun the answer, such as a stream, and it broke off.
    Cut,
    /// The client received an error.
    Failed,
    /// The router repeated it on the other color.
    Repeated,
}

/// The requests of one route that a stop interrupted, with the same outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interrupted {
    /// The route, such as `POST /predict`.
    pub route: String,
    /// What became of them.
    pub outcome: InterruptedOutcome,
    /// Their number.
    pub count: usize,
    /// When the first of them began.
    pub since: Timestamp,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            route,
            outcome,
            count,
            since,
        } = self;
        let what = match (outcome, count) {
            (InterruptedOutcome::Cut, 1) => "answer broke off",
            (InterruptedOutcome::Cut, _) => "answers broke off",
            (InterruptedOutcome::Failed, 1) => "request failed",
            (InterruptedOutcome::Failed, _) => "requests failed",
            (InterruptedOutcome::Repeated, 1) => "request was repeated",
            (InterruptedOutcome::Repeated, _) => "requests were repeated",
        };
        write!(
            formatter,
            "{count} {what} ({route}, in flight since {since:.0})"
        )
    }
}

/// Stops `color`, so that the router repeats the requests that hang on it. Answers that have begun there break off. Reports
/// the requests that this interrupts, and adds them to the history.
///
/// The router logs a request when it ends, so the log names the interrupted ones only afterward.
pub async fn stop_and_name(
    ports: &Ports,
    journal: &Journal<'_>,
    color: Color,
    reporter: &dyn Reporter,
) -> Result<(), PortError> {
    // The router counts the requests to both colors.
    let in_flight = ports.router.in_flight().await.ok();
    if in_flight == Some(0) {
        return ports.fleet.stop(Service::Server(color)).await;
    }
    let log_end = log_end(ports).await;
    let began = ports.clock.now();
    ports.fleet.stop(Service::Server(color)).await?;
    let interrupted = match log_end {
        Some(log_end) => Some(interrupted_requests(ports, color, log_end, began).await),
        None => None,
    };
    let text = describe(in_flight, interrupted.as_deref());
    reporter.report(&Event::ColorStopped {
        color,
        in_flight,
        interrupted: interrupted.as_deref(),
        text: &text,
    });
    if interrupted.is_some_and(|interrupted| interrupted.is_empty()) {
        return Ok(());
    }
    let inspected = ports.fleet.inspect(Service::Server(color)).await.ok();
    let version = inspected.and_then(|(_, version)| version);
    let entry = HistoryEntry::of_color(Action::Stopped, color, version, ports.clock.now(), text);
    if let Err(error) = journal.append_history(&entry).await {
        let text = error.to_string();
        reporter.report(&Event::Note { text });
    }
    Ok(())
}

/// Stops a candidate that did not pass. A candidate that had traffic may have requests in flight.
pub async fn stop_candidate(
    ports: &Ports,
    journal: &Journal<'_>,
    candidate: Color,
    end: deployment::ending::Ending,
    reporter: &dyn Reporter,
) -> Result<(), PortError> {
    if end == deployment::ending::Ending::RollBack {
        stop_and_name(ports, journal, candidate, reporter).await
    } else {
        ports.fleet.stop(Service::Server(candidate)).await
    }
}

/// The end of the router's log; `None` if this machine cannot read the log.
async fn log_end(ports: &Ports) -> Option<LogCursor> {
    let read = ports.request_log.as_ref()?.read(None);
    let part = timeout(MAX_WAIT_FOR_LOG, read).await.ok()?;
    Some(part.ok()?.next)
}

/// The requests that were in flight on `color` when its stop began, as far as they have ended since.
async fn interrupted_requests(
    ports: &Ports,
    color: Color,
    log_end: LogCursor,
    began: Timestamp,
) -> Vec<Interrupted> {
    const PAUSE: Duration = Duration::from_millis(100);

    let deadline = Instant::now() + MAX_WAIT_FOR_LOG;
    let (mut after, mut requests) = (log_end, Vec::new());
    while let Some(log) = &ports.request_log
        && let Ok(Ok(part)) = timeout(MAX_WAIT_FOR_LOG, log.read(Some(after.clone()))).await
    {
        after = part.next;
        requests.extend(part.requests);
        if Instant::now() >= deadline {
            break;
        }
        sleep(PAUSE).await;
    }
    group(&requests, color, began)
}

/// The requests that were in flight on `color` at the time `began`, by route and outcome.
fn group(requests: &[Request], color: Color, began: Timestamp) -> Vec<Interrupted> {
    let mut groups: BTreeMap<(InterruptedOutcome, String), Interrupted> = BTreeMap::new();
    let began = seconds(began);
    let in_flight = requests
        .iter()
        .filter(|request| request.began() <= began && began <= request.at);
    for request in in_flight {
        let Some(outcome) = outcome(request, color) else {
            continue;
        };
        let route = request.route.to_string();
        let since = SignedDuration::try_from_secs_f64(request.began()).ok();
        let since = since.and_then(|since| Timestamp::UNIX_EPOCH.checked_add(since).ok());
        let since = since.unwrap_or_default();
        let group = groups
            .entry((outcome, route.clone()))
            .or_insert(Interrupted {
                route,
                outcome,
                count: 0,
                since,
            });
        group.count += 1;
        group.since = group.since.min(since);
    }
    groups.into_values().collect()
}

/// What became of a request that `color` had and did not end; `None` if it ended well, or the client disconnected.
fn outcome(request: &Request, color: Color) -> Option<InterruptedOutcome> {
    let first = request.attempts.first()?;
    if first.color != color {
        return None;
    }
    match request.ending_for(color)? {
        Ending::Cut => Some(InterruptedOutcome::Cut),
        Ending::Failed if request.status < 500 => Some(InterruptedOutcome::Repeated),
        Ending::Failed | Ending::BothFailed => Some(InterruptedOutcome::Failed),
        Ending::Answered
        | Ending::Refused(_)
        | Ending::GaveUp
        | Ending::Left
        | Ending::ByRouter => None,
    }
}

/// Says what a stop interrupted. `interrupted` is `None` if this machine cannot read the router's log.
fn describe(in_flight: Option<u64>, interrupted: Option<&[Interrupted]>) -> String {
    let in_flight = in_flight.map_or_else(
        || "the router does not report its requests in flight".to_owned(),
        |count| format!("requests in flight on both colors: {count}"),
    );
    let interrupted = match interrupted {
        None => {
            "which of them this interrupted is in the router's log, which this machine cannot read"
                .to_owned()
        }
        Some([]) => "the router's log shows none of them as interrupted".to_owned(),
        Some(groups) => {
            let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
            format!("interrupted: {}", groups.join(", "))
        }
    };
    format!("{in_flight}; {interrupted}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::{Attempt, Route};

    /// A request that began at this second, and was interrupted at second 100.
    fn request(path: &str, began: f64, attempts: &[(Color, u16)], status: u16) -> Request {
        let attempt = |&(color, status)| Attempt {
            color,
            status: Some(status),
            to_head: Some(Duration::ZERO),
            to_end: Some(Duration::ZERO),
        };
        Request {
            at: 100.5,
            waited: Duration::from_secs_f64(100.5 - began),
            route: Route {
                method: "POST".to_owned(),
                path: path.to_owned(),
            },
            wanted: attempts.first().map(|(color, _)| *color),
            attempts: attempts.iter().map(attempt).collect(),
            status,
            ..Request::default()
        }
    }

    #[test]
    fn interrupted_requests_are_grouped_by_route_and_outcome() {
        let (blue, green) = (Color::Blue, Color::Green);
        let stream = |began| Request {
            cut: true,
            ..request("/stream", began, &[(green, 200)], 200)
        };
        let repeated = |began| request("/predict", began, &[(green, 502), (blue, 200)], 200);
        let requests = [
            stream(40.0),
            stream(20.0),
            repeated(90.0),
            request("/predict", 91.0, &[(green, 502)], 502),
            // It began after the stop, its color ended it, or the other color had it.
            repeated(100.2),
            request("/predict", 92.0, &[(green, 200)], 200),
            request("/predict", 93.0, &[(blue, 502), (green, 200)], 200),
        ];
        let groups = group(&requests, green, Timestamp::from_second(100).unwrap());
        assert_eq!(
            describe(Some(9), Some(&groups)),
            "requests in flight on both colors: 9; interrupted: \
             2 answers broke off (POST /stream, in flight since 1970-01-01T00:00:20Z), \
             1 request failed (POST /predict, in flight since 1970-01-01T00:01:31Z), \
             1 request was repeated (POST /predict, in flight since 1970-01-01T00:01:30Z)"
        );
    }

    #[test]
    fn unknown_interruptions_are_called_unknown() {
        assert_eq!(
            describe(None, None),
            "the router does not report its requests in flight; which of them this interrupted is in the router's log, \
             which this machine cannot read"
        );
        assert!(
            describe(Some(1), Some(&[]))
                .ends_with("the router's log shows none of them as interrupted")
        );
    }
}
