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
}

impl Endings {
    /// More routes are not told apart: a client may ask for any path.
    const MOST_ROUTES: usize = 1_000;

    /// Counts one request. What the router did itself says nothing about a release.
    pub fn count(&mut self, route: &Route, ending: Ending) {
        if ending == Ending::ByRouter
            || self.0.len() >= Self::MOST_ROUTES && !self.0.contains_key(route)
        {
            return;
        }
        let on_route = self.0.entry(route.clone()).or_default();
        on_route.requests += 1;
        match ending {
            Ending::Answered | Ending::Left => on_route.answered += 1,
            Ending::GaveUp => on_route.gave_up += 1,
            Ending::Refused(status) => *on_route.refused.entry(status).or_default() += 1,
            Ending::Failed | Ending::ByRouter => {}
        }
    }

    /// Adds later endings.
    pub fn add(&mut self, later: &Self) {
        for (route, later) in &later.0 {
            let on_route = self.0.entry(route.clone()).or_default();
            on_route.requests += later.requests;
            on_route.answered += later.answered;
            on_route.gave_up += later.gave_up;
            for (status, count) in &later.refused {
                *on_route.refused.entry(*status).or_default() += count;
            }
        }
    }

    /// The routes with an answer. What nobody was ever answered is no evidence: scanners ask for anything.
    pub fn answered_routes(&self) -> impl Iterator<Item = &Route> {
        let answered = self.0.iter().filter(|(_, endings)| endings.answered > 0);
        answered.map(|(route, _)| route)
    }

    /// The ways in which requests on this route ended that may be the client's fault.
    pub fn doubtful(&self, route: &Route) -> impl Iterator<Item = Doubtful> {
        let endings = self.0.get(route);
        let statuses = endings.into_iter().flat_map(|it| it.refused.keys());
        let gave_up = endings.filter(|it| it.gave_up > 0);
        gave_up
            .map(|_| Doubtful::GaveUp)
            .into_iter()
            .chain(statuses.copied().map(Doubtful::Refused))
    }

    /// The requests on this route, and how many of them ended so.
    #[must_use]
    pub fn tally(&self, route: &Route, ending: Doubtful) -> Tally {
        let Some(endings) = self.0.get(route) else {
            return Tally::default();
        };
        Tally {
            requests: endings.requests,
            failed: match ending {
                Doubtful::GaveUp => endings.gave_up,
                Doubtful::Refused(status) => {
                    endings.refused.get(&status).copied().unwrap_or_default()
                }
            },
        }
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
            endings.count(&predict(), ending);
        }
        endings.count(&scanned, Ending::Refused(404));
        let mut twice = endings.clone();
        twice.add(&endings);
        assert_eq!(twice.answered_routes().collect::<Vec<_>>(), [&predict()]);
        let kinds: Vec<Doubtful> = twice.doubtful(&predict()).collect();
        let refused = [Doubtful::Refused(401), Doubtful::Refused(422)];
        assert_eq!(kinds, [&[Doubtful::GaveUp], &refused[..]].concat());
        for kind in kinds {
            let tally = twice.tally(&predict(), kind);
            assert_eq!((tally.requests, tally.failed), (12, 2), "{kind:?}");
        }
    }

    #[test]
    fn number_of_routes_is_bounded() {
        let mut endings = Endings::default();
        for number in 0..2 * Endings::MOST_ROUTES {
            let path = format!("/{number}");
            endings.count(&Route { path, ..predict() }, Ending::Answered);
        }
        assert_eq!(endings.answered_routes().count(), Endings::MOST_ROUTES);
    }
}
