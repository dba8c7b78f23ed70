//! What each color answered to clients, one record a request.

use crate::color::Color;

/// One client request, as the router logged it when it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The color that was active when the request came.
    pub wanted: Color,
    /// The color that gave the answer; none when nobody did.
    pub answered: Option<Color>,
    /// The status that the client got.
    pub status: u16,
    /// The status of each attempt in order; none where the attempt had no answer.
    pub attempts: Vec<Option<u16>>,
}

impl Request {
    /// Whether `color` did its duty: none when the request says nothing about it.
    ///
    /// A request that wanted this color counts against it when another one had to answer, also
    /// when the router passed it over because it had failed before. A 4xx is the client's fault,
    /// except 429, by which a server turns away a client that did nothing wrong.
    #[must_use]
    pub fn speaks_of(&self, color: Color) -> Option<bool> {
        const TOO_MANY_REQUESTS: u16 = 429;

        if self.wanted != color {
            return None;
        }
        let first = self.attempts.first().copied().flatten();
        // Turned down by nginx itself (a body too large, or 499: the client went away).
        if first.is_none() && (400..500).contains(&self.status) {
            return None;
        }
        let good = |status| status < 500 && status != TOO_MANY_REQUESTS;
        Some(self.answered == Some(color) && first.is_some_and(good))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(answered: Option<Color>, status: u16, attempts: &[Option<u16>]) -> Request {
        Request {
            wanted: Color::Green,
            answered,
            status,
            attempts: attempts.to_vec(),
        }
    }

    #[test]
    fn an_answer_of_the_wanted_color_speaks_for_it() {
        let answered = request(Some(Color::Green), 200, &[Some(200)]);
        assert_eq!(answered.speaks_of(Color::Green), Some(true));
        assert_eq!(answered.speaks_of(Color::Blue), None);
    }

    #[test]
    fn a_client_error_does_not_speak_against_the_color() {
        let bad_request = request(Some(Color::Green), 422, &[Some(422)]);
        assert_eq!(bad_request.speaks_of(Color::Green), Some(true));
    }

    #[test]
    fn a_failure_that_the_standby_hid_from_the_client_counts() {
        let hidden = request(Some(Color::Blue), 200, &[Some(500), Some(200)]);
        assert_eq!(hidden.speaks_of(Color::Green), Some(false));
    }

    #[test]
    fn being_passed_over_counts() {
        let passed_over = request(Some(Color::Blue), 200, &[Some(200)]);
        assert_eq!(passed_over.speaks_of(Color::Green), Some(false));
    }

    #[test]
    fn no_answer_at_all_counts() {
        let nobody = request(None, 502, &[Some(502)]);
        assert_eq!(nobody.speaks_of(Color::Green), Some(false));
    }

    #[test]
    fn a_release_that_turns_clients_away_has_failed_them() {
        let too_busy = request(Some(Color::Green), 429, &[Some(429)]);
        assert_eq!(too_busy.speaks_of(Color::Green), Some(false));
    }

    #[test]
    fn what_the_router_turns_down_itself_says_nothing() {
        let too_large = request(None, 413, &[None]);
        assert_eq!(too_large.speaks_of(Color::Green), None);
    }

    #[test]
    fn a_client_that_went_away_says_nothing() {
        let gone = request(Some(Color::Green), 499, &[None]);
        assert_eq!(gone.speaks_of(Color::Green), None);
    }
}
