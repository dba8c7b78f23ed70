//! One client request, as the router logged it.

use std::{fmt, time::Duration};

use crate::color::Color;

/// What was asked for, without the query.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The method, such as `POST`.
    pub method: String,
    /// The path, such as `/predict`.
    pub path: String,
}

impl fmt::Display for Route {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.method, self.path)
    }
}

/// How a request ended, as far as the color is concerned that was active when it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The color answered with a status below 400.
    Answered,
    /// The color answered with a status from 400 to 499, except 429: it refused what the client sent.
    Refused(u16),
    /// The color answered with 429 or a status from 500 on, did not answer, or was passed over because of an earlier
    /// failure. The standby may have answered in its place.
    Failed,
    /// The client disconnected before the color answered anything.
    GaveUp,
    /// The client disconnected while it received the answer.
    Left,
    /// The router answered or closed the request itself, and asked no color.
    ByRouter,
}

impl Ending {
    /// Whether the color did well; `None` if the ending says nothing about it. A refusal may be the client's fault, so by
    /// itself it counts as good: [`Endings`](super::endings::Endings) tell whether there are more.
    #[must_use]
    pub fn is_good(self, by_deployer: bool) -> Option<bool> {
        match self {
            Self::Answered | Self::Refused(_) | Self::Left => Some(true),
            Self::Failed => Some(false),
            // The deployer gives up only when the time limit for its requests has passed.
            Self::GaveUp => by_deployer.then_some(false),
            Self::ByRouter => None,
        }
    }
}

/// One request, as the router logged it when it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When it ended, in seconds since 1970.
    pub at: f64,
    /// Whether the deployer sent it.
    pub by_deployer: bool,
    /// What was asked for.
    pub route: Route,
    /// The color that was active when the request arrived.
    pub wanted: Color,
    /// The color that answered; `None` if none did.
    pub answered: Option<Color>,
    /// The status that the client received.
    pub status: u16,
    /// The status of each attempt in order; `None` for an attempt without an answer.
    pub attempts: Vec<Option<u16>>,
    /// The duration of the first attempt; `None` without an answer.
    pub took: Option<Duration>,
    /// How long the client waited.
    pub waited: Duration,
    /// The label in the answer, if the server reports it.
    pub label: Option<String>,
}

impl Request {
    /// How the request ended for `color`; `None` if the color was not active when it arrived.
    #[must_use]
    pub fn ending_for(&self, color: Color) -> Option<Ending> {
        const CLIENT_DISCONNECTED: u16 = 499;
        const TOO_MANY_REQUESTS: u16 = 429;

        if self.wanted != color {
            return None;
        }
        let first = self.attempts.first().copied().flatten();
        let answered = self.answered == Some(color) && first.is_some();
        let only_attempt = self.attempts.len() <= 1;
        Some(match (first, self.status) {
            // nginx logs the duration of every attempt, also of one that the client ended.
            (None, CLIENT_DISCONNECTED) if only_attempt && self.took.is_some() => Ending::GaveUp,
            (None, 400..500) if only_attempt => Ending::ByRouter,
            (Some(..400), CLIENT_DISCONNECTED) if answered => Ending::Left,
            (Some(TOO_MANY_REQUESTS), _) => Ending::Failed,
            (Some(..400), _) if answered => Ending::Answered,
            (Some(status @ 400..500), _) if answered => Ending::Refused(status),
            _ => Ending::Failed,
        })
    }

    /// Whether `color` answered the request well; `None` if the request says nothing about it.
    #[must_use]
    pub fn outcome_for(&self, color: Color) -> Option<bool> {
        self.ending_for(color)?.is_good(self.by_deployer)
    }

    /// Whether the router passed `color` over although it was active.
    fn passed_over(&self, color: Color) -> bool {
        let attempts = self.attempts.len();
        self.wanted == color && self.answered == Some(color.other()) && attempts == 1
    }

    /// Whether the router tried `color`.
    fn tried(&self, color: Color) -> bool {
        let attempts = self.attempts.len();
        self.wanted == color && (self.answered == Some(color) || attempts > 1)
    }

    fn began(&self) -> f64 {
        self.at - self.waited.as_secs_f64()
    }
}

/// Finds the point in the log from which it is evidence about a release that has just received traffic.
///
/// nginx remembers that a color failed, whatever it runs now: it passes the color over for up to two seconds,
/// tries it with one request, and passes it over until that request is answered.
#[derive(Debug, Default)]
pub struct FirstAttempt {
    /// When the first request that tried the color ended, in seconds since 1970.
    ended: Option<f64>,
}

impl FirstAttempt {
    /// Removes requests that passed `color` over because of the release before.
    pub fn exclude_before_first_attempt(&mut self, color: Color, requests: &mut Vec<Request>) {
        let tries = requests.iter().filter(|request| request.tried(color));
        let ends = tries.map(|request| request.at);
        // The workers of nginx write their lines in any order.
        self.ended = ends.chain(self.ended).reduce(f64::min);
        let speaks = |request: &Request| self.ended.is_some_and(|ended| request.began() >= ended);
        requests.retain(|request| !request.passed_over(color) || speaks(request));
    }
}

/// The route of predictions.
#[cfg(test)]
pub(crate) fn predict() -> Route {
    Route {
        method: "POST".to_owned(),
        path: "/predict".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(answered: Option<Color>, status: u16, attempts: &[Option<u16>]) -> Request {
        Request {
            at: 0.0,
            by_deployer: false,
            route: predict(),
            wanted: Color::Green,
            answered,
            status,
            attempts: attempts.to_vec(),
            took: Some(Duration::from_millis(2)),
            waited: Duration::from_millis(3),
            label: Some("positive".to_owned()),
        }
    }

    #[test]
    fn answer_of_active_color_counts_as_success() {
        let answered = request(Some(Color::Green), 200, &[Some(200)]);
        assert_eq!(answered.outcome_for(Color::Green), Some(true));
        assert_eq!(answered.outcome_for(Color::Blue), None);
    }

    #[test]
    fn client_error_is_no_failure() {
        let bad_request = request(Some(Color::Green), 422, &[Some(422)]);
        assert_eq!(bad_request.outcome_for(Color::Green), Some(true));
    }

    #[test]
    fn failure_hidden_by_standby_counts() {
        let hidden = request(Some(Color::Blue), 200, &[Some(500), Some(200)]);
        assert_eq!(hidden.outcome_for(Color::Green), Some(false));
    }

    #[test]
    fn passed_over_color_counts_as_failure() {
        let passed_over = request(Some(Color::Blue), 200, &[Some(200)]);
        assert_eq!(passed_over.outcome_for(Color::Green), Some(false));
    }

    /// A request that ended at this time after 100 ms.
    fn at(at: f64, request: Request) -> Request {
        let waited = Duration::from_millis(100);
        Request {
            at,
            waited,
            ..request
        }
    }

    #[test]
    fn passed_over_color_counts_only_after_first_attempt() {
        let green = Color::Green;
        let passed_over = || request(Some(green.other()), 200, &[Some(200)]);
        let answered = request(Some(green), 200, &[Some(200)]);
        let failed = request(Some(Color::Blue), 200, &[Some(500), Some(200)]);
        for attempt in [answered, failed] {
            let mut first_attempt = FirstAttempt::default();
            let mut remaining = |mut requests: Vec<Request>| {
                first_attempt.exclude_before_first_attempt(green, &mut requests);
                requests.iter().map(|it| it.at).collect::<Vec<_>>()
            };
            assert_eq!(remaining(vec![at(1.0, passed_over())]), [0.0; 0]);
            // The request that ended at 2.05 s began during the first attempt, so it is excluded.
            let later = vec![
                at(2.05, passed_over()),
                at(2.0, attempt),
                at(3.0, passed_over()),
            ];
            assert_eq!(remaining(later), [2.0, 3.0]);
            assert_eq!(remaining(vec![at(4.0, passed_over())]), [4.0]);
        }
    }

    #[test]
    fn client_that_left_is_no_attempt() {
        let client_left = at(1.0, request(None, 499, &[None]));
        let mut requests = vec![
            client_left,
            at(2.0, request(Some(Color::Blue), 200, &[Some(200)])),
        ];
        FirstAttempt::default().exclude_before_first_attempt(Color::Green, &mut requests);
        assert_eq!(requests.len(), 1);
    }

    #[test]
    fn missing_answer_counts_as_failure() {
        let unanswered = request(None, 502, &[Some(502)]);
        assert_eq!(unanswered.outcome_for(Color::Green), Some(false));
    }

    #[test]
    fn status_429_counts_as_failure() {
        let too_busy = request(Some(Color::Green), 429, &[Some(429)]);
        assert_eq!(too_busy.outcome_for(Color::Green), Some(false));
    }

    #[test]
    fn request_rejected_by_router_is_no_evidence() {
        let too_large = request(None, 413, &[None]);
        assert_eq!(too_large.outcome_for(Color::Green), None);
    }

    #[test]
    fn client_that_gave_up_is_no_evidence_by_itself() {
        let gave_up = request(Some(Color::Green), 499, &[None]);
        assert_eq!(gave_up.ending_for(Color::Green), Some(Ending::GaveUp));
        assert_eq!(gave_up.outcome_for(Color::Green), None);
        let own = Request {
            by_deployer: true,
            ..gave_up.clone()
        };
        assert_eq!(own.outcome_for(Color::Green), Some(false));
        // It sent its request so slowly that no color was asked.
        let never_asked = Request {
            took: None,
            ..gave_up
        };
        assert_eq!(never_asked.ending_for(Color::Green), Some(Ending::ByRouter));
    }

    #[test]
    fn client_that_left_during_the_answer_was_answered() {
        let left = request(Some(Color::Green), 499, &[Some(200)]);
        assert_eq!(left.ending_for(Color::Green), Some(Ending::Left));
    }

    #[test]
    fn client_that_gave_up_after_a_failure_saw_the_failure() {
        let failed = request(Some(Color::Blue), 499, &[None, None]);
        assert_eq!(failed.ending_for(Color::Green), Some(Ending::Failed));
    }

    #[test]
    fn refusal_has_its_status() {
        let refused = request(Some(Color::Green), 422, &[Some(422)]);
        assert_eq!(refused.ending_for(Color::Green), Some(Ending::Refused(422)));
    }
}
