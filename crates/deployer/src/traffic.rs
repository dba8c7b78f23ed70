//! What each color answered to clients: one record a request, and what they come to.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    color::Color,
    latency::{Latencies, LatencyLimit},
    verdict::Tally,
};

/// Fewer labels say nothing of their distribution.
pub const ENOUGH_LABELS: u64 = 200;

/// One client request, as the router logged it when it was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// When it was done, in seconds since 1970.
    pub at: f64,
    /// Whether the deployer sent it, and no client.
    pub by_deployer: bool,
    /// The color that was active when the request came.
    pub wanted: Color,
    /// The color that gave the answer; none when nobody did.
    pub answered: Option<Color>,
    /// The status that the client got.
    pub status: u16,
    /// The status of each attempt in order; none where the attempt had no answer.
    pub attempts: Vec<Option<u16>>,
    /// How long the first attempt took; none where there was no answer.
    pub took: Option<Duration>,
    /// How long the client waited in all.
    pub waited: Duration,
    /// The label that was answered, where the server tells it.
    pub label: Option<String>,
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

    /// Whether `color` was wanted, and the router did not even try it.
    fn passed_over(&self, color: Color) -> bool {
        let attempts = self.attempts.len();
        self.wanted == color && self.answered == Some(color.other()) && attempts == 1
    }

    /// Whether `color` was wanted, and got its chance.
    fn tried(&self, color: Color) -> bool {
        let attempts = self.attempts.len();
        self.wanted == color && (self.answered == Some(color) || attempts > 1)
    }

    fn began(&self) -> f64 {
        self.at - self.waited.as_secs_f64()
    }
}

/// Since when the router's log speaks of a release that has just got the traffic.
///
/// nginx remembers that a color failed it, whatever runs there now: it passes it over for up to two
/// seconds, tries it with one request, and passes it over until that is answered.
#[derive(Debug, Default)]
pub struct FirstTry {
    /// When the first request that tried it was done, in seconds since 1970.
    ended: Option<f64>,
}

impl FirstTry {
    /// Leaves out what the router kept from `color` on account of the release before.
    pub fn leave_out_earlier(&mut self, color: Color, requests: &mut Vec<Request>) {
        let tries = requests.iter().filter(|request| request.tried(color));
        let ends = tries.map(|request| request.at);
        // Each of nginx's workers writes its lines when it likes.
        self.ended = ends.chain(self.ended).reduce(f64::min);
        let speaks = |request: &Request| self.ended.is_some_and(|ended| request.began() >= ended);
        requests.retain(|request| !request.passed_over(color) || speaks(request));
    }
}

/// What clients saw of a color.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Requests that wanted it, and how many of them it failed.
    pub tally: Tally,
    /// How long its good answers took. The deployer's own requests are left out, here and below:
    /// they are not what clients send.
    pub latencies: Latencies,
    /// How long clients waited for them.
    pub waits: Latencies,
    /// How often it answered which label.
    pub labels: BTreeMap<String, u64>,
}

impl Seen {
    /// What `requests` tell of `color`.
    #[must_use]
    pub fn of(color: Color, requests: &[Request]) -> Self {
        let mut seen = Self::default();
        for request in requests {
            let Some(good) = request.speaks_of(color) else {
                continue;
            };
            seen.tally.count(good);
            if !good || request.by_deployer {
                continue;
            }
            seen.waits.record(request.waited);
            if let Some(took) = request.took {
                seen.latencies.record(took);
            }
            if let Some(label) = &request.label {
                *seen.labels.entry(label.clone()).or_default() += 1;
            }
        }
        seen
    }

    /// What the newest of `requests` tell of `color`: those since traffic last came to it, so that
    /// another release that ran there before has no part in it.
    #[must_use]
    pub fn lately(color: Color, requests: &[Request]) -> Self {
        let others = requests.iter().rposition(|request| request.wanted != color);
        Self::of(color, &requests[others.map_or(0, |last| last + 1)..])
    }

    /// Whether it says enough of latency and labels to compare others with it.
    #[must_use]
    pub fn suffices_to_compare(&self) -> bool {
        let enough_labels = self.labels() == 0 || self.labels() >= ENOUGH_LABELS;
        self.latencies.count() >= LatencyLimit::ENOUGH_FOR_P99 && enough_labels
    }

    /// How many answers had a label.
    #[must_use]
    pub fn labels(&self) -> u64 {
        self.labels.values().sum()
    }

    /// Adds what was seen later.
    pub fn add(&mut self, later: &Self) {
        self.tally.add(later.tally);
        self.latencies.add(&later.latencies);
        self.waits.add(&later.waits);
        for (label, count) in &later.labels {
            *self.labels.entry(label.clone()).or_default() += count;
        }
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
    fn only_good_answers_to_clients_have_a_latency_and_a_label() {
        let good = request(Some(Color::Green), 200, &[Some(200)]);
        let bad = request(Some(Color::Green), 500, &[Some(500)]);
        let own = Request {
            by_deployer: true,
            ..good.clone()
        };
        let seen = Seen::of(Color::Green, &[good, bad, own]);
        let tally = Tally {
            requests: 3,
            failed: 1,
        };
        assert_eq!(seen.tally, tally);
        assert_eq!((seen.latencies.count(), seen.waits.count()), (1, 1));
        assert_eq!(seen.labels, BTreeMap::from([("positive".to_owned(), 1)]));
    }

    #[test]
    fn a_release_that_ran_there_before_another_one_had_traffic_is_left_out() {
        let green = request(Some(Color::Green), 200, &[Some(200)]);
        let blue = Request {
            wanted: Color::Blue,
            ..green.clone()
        };
        let log = [green.clone(), green.clone(), blue.clone(), green];
        assert_eq!(Seen::lately(Color::Green, &log).tally.requests, 1);
        assert_eq!(Seen::lately(Color::Blue, &log).tally.requests, 0);
        assert_eq!(Seen::lately(Color::Blue, &[blue]).tally.requests, 1);
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

    /// Done at this time, after a tenth of a second.
    fn at(at: f64, request: Request) -> Request {
        let waited = Duration::from_millis(100);
        Request {
            at,
            waited,
            ..request
        }
    }

    #[test]
    fn being_passed_over_counts_only_once_the_router_has_tried_the_color() {
        let green = Color::Green;
        let passed_over = || request(Some(green.other()), 200, &[Some(200)]);
        let answered = request(Some(green), 200, &[Some(200)]);
        let failed = request(Some(Color::Blue), 200, &[Some(500), Some(200)]);
        for tried in [answered, failed] {
            let mut first_try = FirstTry::default();
            let mut left = |mut requests: Vec<Request>| {
                first_try.leave_out_earlier(green, &mut requests);
                requests.iter().map(|it| it.at).collect::<Vec<_>>()
            };
            assert_eq!(left(vec![at(1.0, passed_over())]), [0.0; 0]);
            // One that began while the first try was under way, and one that began after it.
            let later = vec![
                at(2.05, passed_over()),
                at(2.0, tried),
                at(3.0, passed_over()),
            ];
            assert_eq!(left(later), [2.0, 3.0]);
            assert_eq!(left(vec![at(4.0, passed_over())]), [4.0]);
        }
    }

    #[test]
    fn a_client_that_went_away_is_no_try() {
        let gone = at(1.0, request(None, 499, &[None]));
        let mut requests = vec![gone, at(2.0, request(Some(Color::Blue), 200, &[Some(200)]))];
        FirstTry::default().leave_out_earlier(Color::Green, &mut requests);
        assert_eq!(requests.len(), 1);
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
