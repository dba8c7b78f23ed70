//! How the requests of clients ended, by route.

use std::collections::BTreeMap;

use crate::evidence::{
    request::{Ending, Route},
    tally::Tally,
};

/// Counts of endings by route.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Endings(BTreeMap<Route, RouteEndings>);

/// How the requests on one route ended.
#[derive(Debug, Clone, Default, PartialEq)]
struct RouteEndings {
    requests: u64,
    answered: u64,
    /// Answers without a label.
    unlabeled: u64,
    gave_up: u64,
    refused: BTreeMap<u16, u64>,
}

/// A way to end that may be the client's fault. Only a rise speaks against a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubtful {
    /// The client disconnected before an answer.
    GaveUp,
    /// The release refused the request with this status.
    Refused(u16),
    /// The answer had no label.
    Unlabeled,
}

impl Endings {
    /// More routes are not told apart: a client may ask for any path.
    const MOST_ROUTES: usize = 1_000;

    /// Counts one request; `labeled` says whether its answer had a label. What the router did itself says nothing about
    /// a release.
    pub fn count(&mut self, route: &Route, ending: Ending, labeled: bool) {
        if ending == Ending::ByRouter {
            return;
        }
        let Some(on_route) = self.on_route(route) else {
            return;
        };
        on_route.requests += 1;
        match ending {
            Ending::Answered | Ending::Left => {
                on_route.answered += 1;
                on_route.unlabeled += u64::from(!labeled);
            }
            Ending::GaveUp => on_route.gave_up += 1,
            Ending::Refused(status) => *on_route.refused.entry(status).or_default() += 1,
            Ending::Failed | Ending::BothFailed | Ending::Cut | Ending::ByRouter => {}
        }
    }

    /// Adds later endings.
    pub fn add(&mut self, later: &Self) {
        for (route, later) in &later.0 {
            let Some(on_route) = self.on_route(route) else {
                continue;
            };
            on_route.requests += later.requests;
            on_route.answered += later.answered;
            on_route.unlabeled += later.unlabeled;
            on_route.gave_up += later.gave_up;
            for (status, count) in &later.refused {
                *on_route.refused.entry(*status).or_default() += count;
            }
        }
    }

    /// The counts of a route; `None` if there is no room for another one.
    fn on_route(&mut self, route: &Route) -> Option<&mut RouteEndings> {
        if !self.0.contains_key(route) && self.0.len() < Self::MOST_ROUTES {
            self.0.insert(route.clone(), RouteEndings::default());
        }
        self.0.get_mut(route)
    }

    /// The number of requests.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.0.values().map(|endings| endings.requests).sum()
    }

    /// The routes with an answer. A route without one is no evidence: scanners ask for anything.
    pub fn answered_routes(&self) -> impl Iterator<Item = &Route> {
        let answered = self.0.iter().filter(|(_, endings)| endings.answered > 0);
        answered.map(|(route, _)| route)
    }

    /// The ways in which requests on this route ended that may be the client's fault.
    pub fn doubtful(&self, route: &Route) -> impl Iterator<Item = Doubtful> {
        let endings = self.0.get(route).into_iter();
        endings.flat_map(|endings| {
            let gave_up = (endings.gave_up > 0).then_some(Doubtful::GaveUp);
            let unlabeled = (endings.unlabeled > 0).then_some(Doubtful::Unlabeled);
            let refused = endings.refused.keys().copied().map(Doubtful::Refused);
            gave_up.into_iter().chain(unlabeled).chain(refused)
        })
    }

    /// The requests on this route, or its answers, and how many of them ended so.
    #[must_use]
    pub fn tally(&self, route: &Route, ending: Doubtful) -> Tally {
        let Some(endings) = self.0.get(route) else {
            return Tally::default();
        };
        let (requests, failed) = match ending {
            Doubtful::GaveUp => (endings.requests, endings.gave_up),
            Doubtful::Refused(status) => {
                let refused = endings.refused.get(&status).copied();
                (endings.requests, refused.unwrap_or_default())
            }
            Doubtful::Unlabeled => (endings.answered, endings.unlabeled),
        };
        Tally { requests, failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::predict;

    #[test]
    fn endings_are_counted_by_route_and_kind() {
        let mut endings = Endings::default();
        let scanned = Route {
            path: "/admin".to_owned(),
            ..predict()
        };
        for ending in [
            Ending::Answered,
            Ending::Left,
            Ending::GaveUp,
            Ending::Refused(422),
            Ending::Refused(401),
            Ending::Failed,
            Ending::ByRouter,
        ] {
            endings.count(&predict(), ending, true);
        }
        endings.count(&predict(), Ending::Answered, false);
        endings.count(&scanned, Ending::Refused(404), false);
        let mut twice = endings.clone();
        twice.add(&endings);
        assert_eq!(twice.answered_routes().collect::<Vec<_>>(), [&predict()]);
        let kinds: Vec<Doubtful> = twice.doubtful(&predict()).collect();
        let expected = [
            (Doubtful::GaveUp, 14),
            (Doubtful::Unlabeled, 6),
            (Doubtful::Refused(401), 14),
            (Doubtful::Refused(422), 14),
        ];
        assert_eq!(kinds, expected.map(|(kind, _)| kind));
        for (kind, requests) in expected {
            let tally = twice.tally(&predict(), kind);
            assert_eq!((tally.requests, tally.failed), (requests, 2), "{kind:?}");
        }
    }

    #[test]
    fn number_of_routes_is_bounded() {
        let mut endings = Endings::default();
        for number in 0..2 * Endings::MOST_ROUTES {
            let path = format!("/{number}");
            endings.count(&Route { path, ..predict() }, Ending::Answered, true);
        }
        assert_eq!(endings.answered_routes().count(), Endings::MOST_ROUTES);
        let mut others = Endings::default();
        others.count(&predict(), Ending::Answered, true);
        endings.add(&others);
        assert_eq!(endings.answered_routes().count(), Endings::MOST_ROUTES);
    }
}
