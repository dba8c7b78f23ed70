//! One client request, as the router logged it.

use std::time::Duration;

use crate::color::Color;

/// One request, as the router logged it when it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When it ended, in seconds since 1970.
    pub at: f64,
    /// Whether the deployer sent it.
    pub by_deployer: bool,
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
    /// Whether `color` answered the request well; `None` if the request says nothing about it.
    ///
    /// A request for this color counts as failed if another color had to answer, also if the router passed it
    /// over because of an earlier failure. A 4xx is the client's fault, except 429, with which a server rejects
    /// a client that did nothing wrong.
    #[must_use]
    pub fn outcome_for(&self, color: Color) -> Option<bool> {
        const TOO_MANY_REQUESTS: u16 = 429;

        if self.wanted != color {
            return None;
        }
        let first = self.attempts.first().copied().flatten();
        // nginx itself rejected the request (too large), or the client left (499).
        if first.is_none() && (400..500).contains(&self.status) {
            return None;
        }
        let good = |status| status < 500 && status != TOO_MANY_REQUESTS;
        Some(self.answered == Some(color) && first.is_some_and(good))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn request(answered: Option<Color>, status: u16, attempts: &[Option<u16>]) -> Request {
        Request {
            at: 0.0,
            by_deployer: false,
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
    fn client_that_left_is_no_evidence() {
        let client_left = request(Some(Color::Green), 499, &[None]);
        assert_eq!(client_left.outcome_for(Color::Green), None);
    }
}
