//! The traffic of the last 15 minutes.

use jiff::Timestamp;

use crate::{
    color::Color,
    evidence::request::Request,
    report::{record::TrafficSecond, traffic::TrafficCounts},
};

/// How many seconds are shown.
pub(crate) const SHOWN: i64 = 900;
/// The length of a bucket in seconds. Shorter ones would be narrower than a line of the drawing.
pub(crate) const STEP: i64 = 5;
/// The router's log tells how a request ended within about two seconds.
const COMPLETE_AFTER: i64 = 15;
/// The share of the traffic is that of so many last seconds.
const SHARE_OF: i64 = 30;

/// Counts the traffic while the monitor reads the router's log.
#[derive(Debug)]
pub(crate) struct TrafficRing(TrafficCounts);

impl Default for TrafficRing {
    fn default() -> Self {
        Self(TrafficCounts::every(STEP))
    }
}

impl TrafficRing {
    /// Adds requests.
    pub(crate) fn add(&mut self, requests: &[Request], now: Timestamp) {
        let now = now.as_second();
        self.0.count(requests, (now - SHOWN) as f64);
        self.0.compact(now - SHOWN, now - COMPLETE_AFTER);
    }

    /// What was received until `now`. `moves` are the moments at which traffic moved, and to which color.
    pub(crate) fn view(
        &self,
        now: Timestamp,
        moves: Vec<TrafficMoved>,
        limits: Limits,
    ) -> RecentTraffic {
        let now = now.as_second();
        RecentTraffic {
            now,
            is_known: true,
            buckets: self.0.seconds(),
            moves,
            limits,
        }
    }
}

/// A moment at which all traffic moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TrafficMoved {
    pub(crate) at: Timestamp,
    pub(crate) to: Color,
}

/// The limits of the bake that a chart can show.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Limits {
    /// The share of requests that may fail, 0–1.
    pub(crate) max_error_rate: f64,
}

/// The traffic of the last 15 minutes.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecentTraffic {
    /// The end of the time that is shown, in seconds since 1970.
    pub(crate) now: i64,
    /// Whether this machine can read the router's log.
    pub(crate) is_known: bool,
    /// In order; each of [`STEP`] seconds.
    pub(crate) buckets: Vec<TrafficSecond>,
    pub(crate) moves: Vec<TrafficMoved>,
    pub(crate) limits: Limits,
}

impl RecentTraffic {
    /// The share of the clients' requests that were meant for `color` lately, 0–1; `None` without a request.
    pub(crate) fn share(&self, color: Color) -> Option<f64> {
        let recent = || {
            self.buckets
                .iter()
                .filter(|it| it.second + STEP > self.now - SHARE_OF)
        };
        let all: u64 = recent().map(|it| it.requests).sum();
        let of_color = recent().filter(|it| it.color == color);
        let of_color: u64 = of_color.map(|it| it.requests).sum();
        (all > 0).then(|| of_color as f64 / all as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::answered_by;

    fn request(at: f64, color: Color) -> Request {
        Request {
            at,
            ..answered_by(color, 200)
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn ring_forgets_traffic_after_fifteen_minutes() {
        let mut ring = TrafficRing::default();
        ring.add(
            &[request(1000.0, Color::Blue), request(1005.0, Color::Blue)],
            at(1006),
        );
        assert_eq!(
            ring.view(at(1006), Vec::new(), Limits::default())
                .buckets
                .len(),
            2
        );
        ring.add(&[request(100.0, Color::Blue)], at(1006 + SHOWN - 3));
        let left = ring.view(at(1903), Vec::new(), Limits::default()).buckets;
        assert_eq!(left.iter().map(|it| it.second).collect::<Vec<_>>(), [1005]);
    }

    #[test]
    fn share_of_traffic_is_that_of_the_last_seconds() {
        let mut ring = TrafficRing::default();
        assert_eq!(
            ring.view(at(9), Vec::new(), Limits::default())
                .share(Color::Blue),
            None
        );
        let mut requests = vec![request(900.0, Color::Blue); 9];
        requests.extend([request(990.0, Color::Blue), request(995.0, Color::Green)]);
        requests.extend(vec![request(996.0, Color::Green); 2]);
        ring.add(&requests, at(1000));
        let view = ring.view(at(1000), Vec::new(), Limits::default());
        assert_eq!(
            Color::BOTH.map(|color| view.share(color)),
            [Some(0.25), Some(0.75)]
        );
    }
}
