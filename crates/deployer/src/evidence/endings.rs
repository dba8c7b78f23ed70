//! How the requests of clients ended, by route.

use std::{collections::BTreeMap, time::Duration};

use crate::evidence::{
    latency::Latencies,
    request::{Ending, Request, Route},
    tally::Tally,
};

/// Counts of endings by route.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Endings(BTreeMap<Route, RouteEndings>);

/// How the requests on one route ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RouteEndings {
    total: Counts,
    /// By the second in which they ended. Requests of one burst are not independent: its seconds tell.
    seconds: BTreeMap<i64, Counts>,
    /// By the client's address.
    clients: BTreeMap<String, Counts>,
    /// How long answers took.
    took: Latencies,
    /// How long clients waited for a color before they gave up.
    gave_up_after: Latencies,
    /// Answers by size, in steps of a quarter of a power of 2.
    sizes: BTreeMap<i32, u64>,
    /// The number of requests, and the ID of the first one, of each ending.
    kinds: BTreeMap<Ending, (u64, String)>,
}

/// How requests ended.
#[derive(Debug, Clone, Default, PartialEq)]
struct Counts {
    requests: u64,
    answered: u64,
    unlabeled: u64,
    failed: u64,
    both_failed: u64,
    failed_for_client: u64,
    gave_up: u64,
    refused: BTreeMap<u16, u64>,
}

/// A way to end that may be no fault of the release. Only a rise speaks against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Symptom {
    /// The client received a failure, whichever color was to blame.
    FailedForClient,
    /// The client received a failure of both colors.
    BothFailed,
    /// The client disconnected before an answer.
    GaveUp,
    /// The release refused the request with this status.
    Refused(u16),
    /// The answer had no label.
    Unlabeled,
    /// The client had no use of it: a failure, a refusal, or a request that it gave up.
    NotServed,
}

impl Symptom {
    /// Whether a request with this ending belongs to it.
    #[must_use]
    pub fn includes(self, ending: Ending) -> bool {
        match self {
            Self::FailedForClient => {
                matches!(ending, Ending::Failed | Ending::BothFailed | Ending::Cut)
            }
            Self::BothFailed => ending == Ending::BothFailed,
            Self::GaveUp => ending == Ending::GaveUp,
            Self::Refused(status) => ending == Ending::Refused(status),
            Self::Unlabeled => ending == Ending::Answered,
            Self::NotServed => {
                !matches!(ending, Ending::Answered | Ending::Left | Ending::ByRouter)
            }
        }
    }
}

impl Counts {
    fn count(&mut self, request: &Request, ending: Ending) {
        self.requests += 1;
        match ending {
            Ending::Answered | Ending::Left => {
                self.answered += 1;
                self.unlabeled += u64::from(request.label.is_none());
            }
            Ending::GaveUp => self.gave_up += 1,
            Ending::Refused(status) => *self.refused.entry(status).or_default() += 1,
            Ending::Failed | Ending::Cut => {
                self.failed += 1;
                // The standby may have answered instead.
                let failed_for_client = ending == Ending::Cut || request.status >= 500;
                self.failed_for_client += u64::from(failed_for_client);
            }
            Ending::BothFailed => {
                self.both_failed += 1;
                self.failed_for_client += 1;
            }
            Ending::ByRouter => {}
        }
    }

    fn count_stood_in(&mut self, request: &Request) {
        self.requests += 1;
        if request.status >= 500 {
            self.both_failed += 1;
            self.failed_for_client += 1;
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.answered += other.answered;
        self.unlabeled += other.unlabeled;
        self.failed += other.failed;
        self.both_failed += other.both_failed;
        self.failed_for_client += other.failed_for_client;
        self.gave_up += other.gave_up;
        for (status, count) in &other.refused {
            *self.refused.entry(*status).or_default() += count;
        }
    }

    fn tally(&self, symptom: Symptom) -> Tally {
        let (requests, failed) = match symptom {
            Symptom::FailedForClient => (self.requests, self.failed_for_client),
            Symptom::BothFailed => (self.requests, self.both_failed),
            Symptom::GaveUp => (self.requests, self.gave_up),
            Symptom::Refused(status) => {
                let refused = self.refused.get(&status).copied();
                (self.requests, refused.unwrap_or_default())
            }
            Symptom::Unlabeled => (self.answered, self.unlabeled),
            Symptom::NotServed => {
                let refused: u64 = self.refused.values().sum();
                let not_served = self.failed + self.both_failed + self.gave_up + refused;
                (self.requests, not_served)
            }
        };
        Tally { requests, failed }
    }
}

impl RouteEndings {
    /// More clients are not told apart.
    const MOST_CLIENTS: usize = 1_000;
    /// Earlier seconds are added up.
    const MOST_SECONDS: usize = 1_800;

    fn count(&mut self, request: &Request, ending: Ending) {
        let (count, _) = self
            .kinds
            .entry(ending)
            .or_insert_with(|| (0, request.id.clone()));
        *count += 1;
        self.total.count(request, ending);
        let counts = self.seconds.entry(second_of(request)).or_default();
        counts.count(request, ending);
        self.forget_earliest_seconds();
        if self.clients.contains_key(&request.client) || self.clients.len() < Self::MOST_CLIENTS {
            let client = self.clients.entry(request.client.clone()).or_default();
            client.count(request, ending);
        }
        let took = request.took();
        match ending {
            Ending::Answered | Ending::Left => self.took.extend(took),
            Ending::GaveUp => self.gave_up_after.extend(took),
            _ => {}
        }
        if ending == Ending::Answered && request.route.method != "HEAD" {
            *self
                .sizes
                .entry(size_step(request.answer_size))
                .or_default() += 1;
        }
    }

    fn count_stood_in(&mut self, request: &Request) {
        self.total.count_stood_in(request);
        let counts = self.seconds.entry(second_of(request)).or_default();
        counts.count_stood_in(request);
        self.forget_earliest_seconds();
    }

    fn add(&mut self, later: &Self) {
        self.total.add(&later.total);
        for (second, counts) in &later.seconds {
            self.seconds.entry(*second).or_default().add(counts);
        }
        self.forget_earliest_seconds();
        for (client, counts) in &later.clients {
            if self.clients.contains_key(client) || self.clients.len() < Self::MOST_CLIENTS {
                self.clients.entry(client.clone()).or_default().add(counts);
            }
        }
        for (ending, (count, example)) in &later.kinds {
            let (sum, _) = self
                .kinds
                .entry(*ending)
                .or_insert_with(|| (0, example.clone()));
            *sum += count;
        }
        self.took.add(&later.took);
        self.gave_up_after.add(&later.gave_up_after);
        for (size, count) in &later.sizes {
            *self.sizes.entry(*size).or_default() += count;
        }
    }

    /// Adds the earliest second to the next one if there are too many.
    fn forget_earliest_seconds(&mut self) {
        while self.seconds.len() > Self::MOST_SECONDS
            && let Some((_, earliest)) = self.seconds.pop_first()
            && let Some(mut next) = self.seconds.first_entry()
        {
            next.get_mut().add(&earliest);
        }
    }

    /// Whether a request was answered.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.total.answered > 0
    }

    /// The requests, or answers, and how many of them ended so.
    #[must_use]
    pub fn tally(&self, symptom: Symptom) -> Tally {
        self.total.tally(symptom)
    }

    /// The same by second.
    pub fn by_second(&self, symptom: Symptom) -> impl Iterator<Item = (i64, Tally)> {
        let seconds = self.seconds.iter();
        seconds.map(move |(second, counts)| (*second, counts.tally(symptom)))
    }

    /// The same without the client whose requests ended so most often.
    #[must_use]
    pub fn without_busiest_client(&self, symptom: Symptom) -> Tally {
        let tallies = self.clients.values().map(|counts| counts.tally(symptom));
        let busiest = tallies.max_by_key(|tally| tally.failed).unwrap_or_default();
        let all = self.tally(symptom);
        Tally {
            requests: all.requests.saturating_sub(busiest.requests),
            failed: all.failed.saturating_sub(busiest.failed),
        }
    }

    /// All requests, and those that the release itself failed: no answer, an error, or half an answer.
    #[must_use]
    pub fn failures(&self) -> Tally {
        Tally {
            requests: self.total.requests,
            failed: self.total.failed,
        }
    }

    /// The requests that clients gave up after more than `allowed`.
    #[must_use]
    pub fn gave_up_late(&self, allowed: Duration) -> u64 {
        self.gave_up_after.count_above(allowed)
    }

    /// Lists the endings that `counts` chooses, with their numbers and an example: "2 cut (for example request 5f3a)".
    #[must_use]
    pub fn describe(&self, counts: impl Fn(Ending) -> bool) -> String {
        let kinds = self.kinds.iter().filter(|(ending, _)| counts(**ending));
        let kinds = kinds.map(|(ending, (count, example))| {
            let kind = ending.kind().replace('_', " ");
            format!("{count} {kind} (for example request {example})")
        });
        kinds.collect::<Vec<_>>().join(", ")
    }

    /// The requests that failed on both colors.
    #[must_use]
    pub fn both_failed(&self) -> u64 {
        self.kinds
            .get(&Ending::BothFailed)
            .map_or(0, |(count, _)| *count)
    }

    /// How long answers took.
    #[must_use]
    pub fn took(&self) -> &Latencies {
        &self.took
    }

    /// The number of answers, and the size in bytes that a share of `quantile` (0–1) of them does not exceed, within
    /// a tenth.
    #[must_use]
    pub fn answer_size(&self, quantile: f64) -> (u64, f64) {
        let all: u64 = self.sizes.values().sum();
        let mut left = quantile * all as f64;
        for (step, count) in &self.sizes {
            left -= *count as f64;
            if left <= 0.0 {
                return (all, 2_f64.powf(f64::from(*step) / STEPS_OF_SIZE) - 1.0);
            }
        }
        (all, 0.0)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a second of our time fits")]
fn second_of(request: &Request) -> i64 {
    request.at.floor() as i64
}

/// Steps between a size and its double.
const STEPS_OF_SIZE: f64 = 4.0;

#[expect(
    clippy::cast_possible_truncation,
    reason = "a logarithm of 64 bits is small"
)]
fn size_step(bytes: u64) -> i32 {
    ((bytes as f64 + 1.0).log2() * STEPS_OF_SIZE).round() as i32
}

impl Endings {
    /// More routes are not told apart: a client may ask for any path.
    const MOST_ROUTES: usize = 100;

    /// Counts one request. What the router did itself says nothing about a release.
    pub fn count(&mut self, request: &Request, ending: Ending) {
        if ending == Ending::ByRouter {
            return;
        }
        let is_answered = matches!(ending, Ending::Answered | Ending::Left);
        if let Some(on_route) = self.on_route_mut(&request.route, is_answered) {
            on_route.count(request, ending);
        }
    }

    /// Counts requests for which the standby stood in, and the color is not to blame. Only what the client received
    /// counts.
    pub fn count_stood_in(&mut self, requests: &[Request]) {
        for request in requests.iter().filter(|request| !request.by_deployer) {
            if let Some(on_route) = self.on_route_mut(&request.route, false) {
                on_route.count_stood_in(request);
            }
        }
    }

    /// Adds later endings.
    pub fn add(&mut self, later: &Self) {
        for (route, later) in &later.0 {
            if let Some(on_route) = self.on_route_mut(route, later.is_answered()) {
                on_route.add(later);
            }
        }
    }

    /// The endings on a route; `None` if there is no room for another one. Half of the room is for routes that are
    /// answered, so that a scanner cannot take it all.
    fn on_route_mut(&mut self, route: &Route, is_answered: bool) -> Option<&mut RouteEndings> {
        let room = if is_answered {
            Self::MOST_ROUTES
        } else {
            Self::MOST_ROUTES / 2
        };
        if !self.0.contains_key(route) && self.0.len() < room {
            self.0.insert(route.clone(), RouteEndings::default());
        }
        self.0.get_mut(route)
    }

    /// The endings on a route.
    #[must_use]
    pub fn on_route(&self, route: &Route) -> Option<&RouteEndings> {
        self.0.get(route)
    }

    /// All routes.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, &RouteEndings)> {
        self.0.iter()
    }

    /// The number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        let routes = self.0.values();
        routes.map(|endings| endings.total.requests).sum()
    }

    /// The routes with an answer. A route without one is no evidence: scanners ask for anything.
    pub fn answered_routes(&self) -> impl Iterator<Item = (&Route, &RouteEndings)> {
        self.0.iter().filter(|(_, endings)| endings.is_answered())
    }
}

impl RouteEndings {
    /// The ways in which requests ended that may be no fault of the release.
    #[must_use]
    pub fn symptoms(&self) -> Vec<Symptom> {
        let total = &self.total;
        let seen = [
            (total.both_failed, Symptom::BothFailed),
            (total.gave_up, Symptom::GaveUp),
            (total.unlabeled, Symptom::Unlabeled),
        ];
        let seen = seen.into_iter().filter(|(count, _)| *count > 0);
        let refused = total.refused.keys().copied().map(Symptom::Refused);
        let seen = seen.map(|(_, symptom)| symptom).chain(refused);
        seen.chain([Symptom::NotServed]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{color::Color, evidence::request::answered_by};

    fn request(path: &str, at: f64, client: &str) -> Request {
        Request {
            at,
            client: client.to_owned(),
            label: Some("yes".to_owned()),
            answer_size: 100,
            route: Route {
                method: "POST".to_owned(),
                path: path.to_owned(),
            },
            ..answered_by(Color::Blue, 200)
        }
    }

    fn tally(requests: u64, failed: u64) -> Tally {
        Tally { requests, failed }
    }

    #[test]
    fn endings_are_counted_by_route_and_kind() {
        let mut endings = Endings::default();
        let predict = request("/predict", 1.5, "a");
        for ending in [
            Ending::Answered,
            Ending::Left,
            Ending::GaveUp,
            Ending::Refused(422),
            Ending::Refused(401),
            Ending::Failed,
            Ending::BothFailed,
            Ending::Cut,
            Ending::ByRouter,
        ] {
            endings.count(&predict, ending);
        }
        let unlabeled = Request {
            label: None,
            ..predict.clone()
        };
        endings.count(&unlabeled, Ending::Answered);
        endings.count(&request("/admin", 1.0, "a"), Ending::Refused(404));
        let mut twice = endings.clone();
        twice.add(&endings);
        let routes: Vec<_> = twice.answered_routes().map(|(route, _)| route).collect();
        assert_eq!(routes, [&predict.route]);
        let on_route = twice.on_route(&predict.route).unwrap();
        let expected = [
            (Symptom::BothFailed, tally(18, 2)),
            (Symptom::GaveUp, tally(18, 2)),
            (Symptom::Unlabeled, tally(6, 2)),
            (Symptom::Refused(401), tally(18, 2)),
            (Symptom::Refused(422), tally(18, 2)),
            (Symptom::NotServed, tally(18, 12)),
        ];
        assert_eq!(on_route.symptoms(), expected.map(|(kind, _)| kind));
        for (kind, expected) in expected {
            assert_eq!(on_route.tally(kind), expected, "{kind:?}");
        }
        assert_eq!(on_route.tally(Symptom::FailedForClient), tally(18, 4));
        // The standby answered the failed requests.
        assert_eq!(on_route.failures(), tally(18, 4));
    }

    #[test]
    fn client_that_gave_up_late_is_a_failure() {
        let mut endings = Endings::default();
        let mut gave_up = request("/predict", 1.0, "a");
        for milliseconds in [50, 900, 1_100] {
            gave_up.attempts[0].to_end = Some(Duration::from_millis(milliseconds));
            endings.count(&gave_up, Ending::GaveUp);
        }
        let on_route = endings.on_route(&gave_up.route).unwrap();
        assert_eq!(on_route.gave_up_late(Duration::from_secs(1)), 1);
        assert_eq!(on_route.failures(), tally(3, 0));
    }

    #[test]
    fn busiest_client_can_be_left_out() {
        let mut endings = Endings::default();
        for number in 0..10 {
            let client = if number < 6 { "busy" } else { "quiet" };
            let request = request("/predict", f64::from(number), client);
            endings.count(&request, Ending::Refused(422));
            endings.count(&request, Ending::Answered);
        }
        let on_route = endings.on_route(&request("/predict", 0.0, "").route);
        let refused = Symptom::Refused(422);
        let on_route = on_route.unwrap();
        assert_eq!(on_route.tally(refused), tally(20, 10));
        assert_eq!(on_route.without_busiest_client(refused), tally(8, 4));
        let seconds: Vec<_> = on_route.by_second(refused).collect();
        assert_eq!(seconds.len(), 10);
        assert_eq!(seconds[3], (3, tally(2, 1)));
    }

    #[test]
    fn answer_size_is_a_quantile_within_a_tenth() {
        let mut endings = Endings::default();
        for size in [0, 100, 100, 1_000, 1_000_000] {
            let request = Request {
                answer_size: size,
                ..request("/predict", 0.0, "a")
            };
            endings.count(&request, Ending::Answered);
        }
        let on_route = endings.routes().next().unwrap().1;
        for (quantile, expected) in [(0.1, 0.0), (0.5, 100.0), (0.7, 1e3), (1.0, 1e6)] {
            let (count, size) = on_route.answer_size(quantile);
            assert_eq!(count, 5);
            assert!((size - expected).abs() <= 0.1 * expected, "{size}");
        }
    }

    #[test]
    fn numbers_of_routes_clients_and_seconds_are_bounded() {
        let mut endings = Endings::default();
        for number in 0..2 * Endings::MOST_ROUTES {
            let path = format!("/{number}");
            endings.count(&request(&path, 0.0, "a"), Ending::Answered);
        }
        assert_eq!(endings.answered_routes().count(), Endings::MOST_ROUTES);
        let mut others = Endings::default();
        let few = u32::try_from(2 * RouteEndings::MOST_SECONDS).unwrap();
        for number in 0..few {
            let client = number.to_string();
            let request = request("/predict", f64::from(number), &client);
            others.count(&request, Ending::Answered);
        }
        endings.add(&others);
        assert_eq!(endings.answered_routes().count(), Endings::MOST_ROUTES);
        let on_route = others.routes().next().unwrap().1;
        assert_eq!(on_route.clients.len(), RouteEndings::MOST_CLIENTS);
        assert_eq!(on_route.seconds.len(), RouteEndings::MOST_SECONDS);
        assert_eq!(others.requests(), u64::from(few));
    }
}
