//! What clients received from a color over a stretch of time.

use std::collections::BTreeMap;

use crate::{
    color::Color,
    evidence::{
        answering_releases::AnsweringReleases,
        endings::Endings,
        latency::{Latencies, LatencyLimit},
        request::{Ending, Request},
        tally::Tally,
    },
};

/// The least number of labels for a distribution.
pub const ENOUGH_LABELS: u64 = 200;
/// The least number of independent labels for a distribution.
pub const ENOUGH_INPUTS: u64 = 50;
/// More sizes of inputs are not told apart.
const MOST_SIZES: usize = 10_000;

/// What clients received from a color.
#[derive(Debug, Clone, Default)]
pub struct TrafficSample {
    /// Requests for the color, and failures among them.
    pub tally: Tally,
    /// Durations of good answers, here and below without the deployer's own requests, which are not what
    /// clients send.
    pub latencies: Latencies,
    /// How long clients waited for them.
    pub waits: Latencies,
    /// Answers by label.
    pub labels: BTreeMap<String, u64>,
    /// The same by the size of the request in bytes: equal inputs have equal sizes.
    pub labels_by_size: BTreeMap<u64, BTreeMap<String, u64>>,
    /// How clients' requests ended, by route.
    pub endings: Endings,
    /// Clients' requests by the second in which they arrived.
    pub arrivals: BTreeMap<i64, u64>,
    /// The releases that answered as this color.
    pub releases: AnsweringReleases,
}

impl TrafficSample {
    /// The sample of `color` in these requests.
    #[must_use]
    pub fn of(color: Color, requests: &[Request]) -> Self {
        let mut sample = Self::default();
        for request in requests {
            let Some(ending) = request.ending_for(color) else {
                continue;
            };
            sample.releases.count(request, color);
            if !request.by_deployer {
                sample.endings.count(request, ending);
                sample.count_arrival(request, ending);
            }
            let Some(good) = ending.is_good(request.by_deployer) else {
                continue;
            };
            sample.tally.count(good);
            if !good || request.by_deployer {
                continue;
            }
            sample.waits.record(request.waited_for_answer());
            if let Some(took) = request.took() {
                sample.latencies.record(took);
            }
            if let Some(label) = &request.label {
                sample.add_labels(request.size, label, 1);
            }
        }
        sample
    }

    /// The sample of the release that `color` holds: since traffic last came to the color, and since the color last
    /// answered as another release. Releases that answer by turns all belong to it.
    #[must_use]
    pub fn recent(color: Color, requests: &[Request]) -> Self {
        let others = requests
            .iter()
            .rposition(|request| request.wanted == Some(color.other()));
        let requests = &requests[others.map_or(0, |last| last + 1)..];
        let releases = || requests.iter().map(|request| request.release_of(color));
        let current = releases().rev().flatten().next();
        let first = releases().position(|release| release.is_some() && release == current);
        let earlier = releases().rposition(|release| release.is_some() && release != current);
        let is_clean = earlier < first;
        let start = earlier.filter(|_| is_clean).map_or(0, |last| last + 1);
        Self::of(color, &requests[start..])
    }

    /// Counts by arrival and not by end: after a pause many requests end in the same second.
    #[expect(clippy::cast_possible_truncation, reason = "a second of our time fits")]
    fn count_arrival(&mut self, request: &Request, ending: Ending) {
        if ending != Ending::ByRouter {
            let second = request.began().floor() as i64;
            *self.arrivals.entry(second).or_default() += 1;
        }
    }

    /// How many requests clients sent in their busiest second; 0 without requests.
    #[must_use]
    pub fn busiest_second(&self) -> u64 {
        self.arrivals.values().max().copied().unwrap_or_default()
    }

    /// Whether latency and labels suffice for a comparison.
    #[must_use]
    pub fn is_comparable(&self) -> bool {
        let enough_labels = self.labels() == 0 || self.labels() >= ENOUGH_LABELS;
        self.latencies.count() >= LatencyLimit::ENOUGH_FOR_P99 && enough_labels
    }

    /// The number of answers with a label.
    #[must_use]
    pub fn labels(&self) -> u64 {
        self.labels.values().sum()
    }

    /// Counts answers with this label to requests of this size.
    pub fn add_labels(&mut self, size: u64, label: &str, count: u64) {
        *self.labels.entry(label.to_owned()).or_default() += count;
        self.add_labels_of_size(size, label, count);
    }

    fn add_labels_of_size(&mut self, size: u64, label: &str, count: u64) {
        let known = self.labels_by_size.contains_key(&size);
        if known || self.labels_by_size.len() < MOST_SIZES {
            let labels = self.labels_by_size.entry(size).or_default();
            *labels.entry(label.to_owned()).or_default() += count;
        }
    }

    /// The number of different sizes of requests that were answered with a label.
    #[must_use]
    pub fn input_sizes(&self) -> usize {
        self.labels_by_size.len()
    }

    /// Answers by label, where answers to one repeated input count once.
    ///
    /// The log does not show inputs, but equal inputs have equal sizes and labels. So answers with one size are as many
    /// different inputs as twice those without the most frequent label, and one more.
    #[must_use]
    pub fn independent_labels(&self) -> BTreeMap<String, u64> {
        let mut shares: BTreeMap<&str, f64> = BTreeMap::new();
        for labels in self.labels_by_size.values() {
            let all: u64 = labels.values().sum();
            let most = labels.values().max().copied().unwrap_or_default();
            let independent = (1 + 2 * (all - most)).min(all);
            for (label, count) in labels {
                let share = *count as f64 / all as f64 * independent as f64;
                *shares.entry(label).or_default() += share;
            }
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count that is not negative"
        )]
        let rounded = |share: f64| share.round() as u64;
        let labels = shares.into_iter();
        labels
            .map(|(label, share)| (label.to_owned(), rounded(share)))
            .collect()
    }

    /// Whether the labels suffice for a distribution.
    #[must_use]
    pub fn has_enough_labels(&self) -> bool {
        let independent: u64 = self.independent_labels().values().sum();
        self.labels() >= ENOUGH_LABELS && independent >= ENOUGH_INPUTS
    }

    /// Adds a later sample.
    pub fn add(&mut self, later: &Self) {
        self.tally.add(later.tally);
        self.latencies.add(&later.latencies);
        self.waits.add(&later.waits);
        for (label, count) in &later.labels {
            *self.labels.entry(label.clone()).or_default() += count;
        }
        for (size, labels) in &later.labels_by_size {
            for (label, count) in labels {
                self.add_labels_of_size(*size, label, *count);
            }
        }
        self.endings.add(&later.endings);
        self.releases.add(&later.releases);
        for (second, count) in &later.arrivals {
            *self.arrivals.entry(*second).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::request::answered_by;

    fn request(status: u16) -> Request {
        Request {
            label: Some("positive".to_owned()),
            ..answered_by(Color::Green, status)
        }
    }

    #[test]
    fn sample_takes_latency_and_label_from_good_client_answers() {
        let good = request(200);
        let bad = request(500);
        let own = Request {
            by_deployer: true,
            ..good.clone()
        };
        let sample = TrafficSample::of(Color::Green, &[good, bad, own]);
        let tally = Tally {
            requests: 3,
            failed: 1,
        };
        assert_eq!(sample.tally, tally);
        assert_eq!((sample.latencies.count(), sample.waits.count()), (1, 1));
        assert_eq!(sample.labels, BTreeMap::from([("positive".to_owned(), 1)]));
    }

    #[test]
    fn busiest_second_counts_client_requests_by_arrival() {
        let arrived = |at: f64| Request {
            at: at + 3.0,
            waited: Duration::from_secs(3),
            ..request(200)
        };
        let own = Request {
            by_deployer: true,
            ..arrived(7.5)
        };
        let by_router = Request {
            attempts: Vec::new(),
            ..arrived(7.5)
        };
        // All end in second 10, but one arrives before the others.
        let late = Request {
            at: 10.0,
            waited: Duration::from_secs(5),
            ..request(200)
        };
        let mut sample = TrafficSample::of(
            Color::Green,
            &[arrived(7.1), arrived(7.9), own, by_router, late],
        );
        assert_eq!(sample.busiest_second(), 2);
        sample.add(&TrafficSample::of(Color::Green, &[arrived(7.2)]));
        assert_eq!(sample.busiest_second(), 3);
        assert_eq!(TrafficSample::default().busiest_second(), 0);
    }

    #[test]
    fn recent_sample_excludes_earlier_release() {
        let green = request(200);
        let blue = Request {
            wanted: Some(Color::Blue),
            ..green.clone()
        };
        let log = [green.clone(), green.clone(), blue.clone(), green];
        assert_eq!(TrafficSample::recent(Color::Green, &log).tally.requests, 1);
        assert_eq!(TrafficSample::recent(Color::Blue, &log).tally.requests, 0);
        assert_eq!(
            TrafficSample::recent(Color::Blue, &[blue]).tally.requests,
            1
        );
    }

    #[test]
    fn recent_sample_excludes_earlier_release_on_same_color() {
        let of_release = |digest: &str| Request {
            digest: Some(digest.to_owned()),
            ..request(200)
        };
        // The router's own 502 names no release.
        let unnamed = request(502);
        let log = [
            of_release("old"),
            unnamed.clone(),
            of_release("old"),
            unnamed,
            of_release("new"),
            of_release("new"),
        ];
        let recent = TrafficSample::recent(Color::Green, &log);
        assert_eq!(recent.tally.requests, 3);
        assert!(!recent.releases.are_several());
        assert!(TrafficSample::of(Color::Green, &log).releases.are_several());
    }

    #[test]
    fn recent_sample_keeps_releases_that_answer_by_turns() {
        let log = ["one", "another", "one", "another"].map(|version| Request {
            version: Some(version.to_owned()),
            ..request(200)
        });
        let recent = TrafficSample::recent(Color::Green, &log);
        assert_eq!(recent.tally.requests, 4);
        assert!(recent.releases.are_several());
    }

    #[test]
    fn answer_of_standby_names_no_release_of_the_color() {
        let mut stood_in = Request {
            version: Some("v1".to_owned()),
            ..request(500)
        };
        stood_in
            .attempts
            .extend(answered_by(Color::Blue, 200).attempts);
        let sample = TrafficSample::of(Color::Green, &[stood_in]);
        assert_eq!(sample.releases, AnsweringReleases::default());
    }
}
