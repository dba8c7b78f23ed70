//! A load: its plan and its result.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    config::LoadSettings,
    evidence::{latency::Latencies, sample::TrafficSample, stream::StreamTimes, tally::Tally},
};

/// The load of a rate, as a multiple of the busiest second before: traffic grows.
const OF_BUSIEST_SECOND: f64 = 1.2;
/// Requests per second if clients sent nothing before.
const WITHOUT_TRAFFIC: f64 = 10.0;
/// The connections of a rate. If all of them wait for an answer, further requests count as late.
const MOST_CONNECTIONS: usize = 500;

/// How much load to generate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadPlan {
    /// Concurrent requests, each on its own connection.
    pub concurrency: usize,
    /// Duration.
    pub duration: Duration,
    /// Requests per second at even intervals, whether or not earlier ones were answered (open loop). `None`
    /// sends each request after the previous answer on its connection (closed loop).
    pub rate: Option<f64>,
    /// A request that takes longer has failed.
    pub timeout: Duration,
}

impl LoadPlan {
    /// The load by these settings, after this traffic of clients.
    #[must_use]
    pub fn new(settings: &LoadSettings, before: &TrafficSample) -> Self {
        let (concurrency, rate) = match settings.concurrency {
            0 => (MOST_CONNECTIONS, Some(rate(settings, before))),
            concurrency => (concurrency, None),
        };
        Self {
            concurrency,
            duration: settings.duration,
            rate,
            timeout: settings.timeout,
        }
    }
}

fn rate(settings: &LoadSettings, before: &TrafficSample) -> f64 {
    if settings.rate > 0.0 {
        return settings.rate;
    }
    match before.busiest_second() {
        0 => WITHOUT_TRAFFIC,
        requests => OF_BUSIEST_SECOND * requests as f64,
    }
}

impl fmt::Display for LoadPlan {
    /// Says how much is asked: "12 requests/s" or "500 requests at a time".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rate {
            Some(rate) => write!(formatter, "{rate:.0} requests/s"),
            None => write!(formatter, "{} requests at a time", self.concurrency),
        }
    }
}

/// The result of a load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadResult {
    /// Requests that ended, and failures among them.
    pub tally: Tally,
    /// Latencies of successful requests, in an open loop from when each was due, in a closed loop from when it
    /// was sent. Requests that timed out count with the time waited.
    pub latencies: Latencies,
    /// Errors by kind.
    pub errors: BTreeMap<String, u64>,
    /// Successful answers while requests were being sent.
    pub in_time: u64,
    /// How long requests were sent.
    pub elapsed: Duration,
    /// The streams, if the answers are streams. Then `latencies` are the times to the first token.
    pub streams: Option<StreamLoad>,
}

/// The streams of a load.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamLoad {
    /// The times between tokens.
    pub gaps: Latencies,
    /// The longest time without an event.
    pub longest_silence: Duration,
    /// Tokens of whole streams.
    pub tokens: u64,
}

impl LoadResult {
    /// Successful answers per second while requests were being sent. Waiting for the last answers does not
    /// lower it.
    #[must_use]
    pub fn throughput(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 {
            self.in_time as f64 / seconds
        } else {
            0.0
        }
    }

    /// The latencies, corrected for coordinated omission.
    ///
    /// An open loop omits nothing, and the next stream does not begin after the first token of the one before. In a closed
    /// loop each connection would have sent a request at its median interval.
    #[must_use]
    pub fn corrected(&self, plan: &LoadPlan) -> Latencies {
        if plan.rate.is_some() || self.streams.is_some() {
            return self.latencies.clone();
        }
        self.latencies.corrected(self.latencies.quantile(0.5))
    }

    /// Counts a successful answer.
    pub fn answered(&mut self, took: Duration) {
        self.tally.count(true);
        self.latencies.record(took);
    }

    /// Counts a whole stream.
    pub fn streamed(&mut self, times: &StreamTimes) {
        self.answered(times.to_first_token);
        let streams = self.streams.get_or_insert_default();
        streams.gaps.extend(times.gaps.iter().copied());
        streams.longest_silence = streams.longest_silence.max(times.longest_silence);
        streams.tokens += times.tokens;
    }

    /// Counts a request without an answer. Its latency is at least the time waited.
    pub fn timed_out(&mut self, kind: &str, waited: Duration) {
        self.failed(kind);
        self.latencies.record(waited);
    }

    /// Counts a failure.
    pub fn failed(&mut self, kind: &str) {
        self.tally.count(false);
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn plan(given: &[&str], busiest_second: u64) -> LoadPlan {
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        let settings = config::load(None, &given).unwrap();
        let before = TrafficSample {
            arrivals: BTreeMap::from([(7, 1), (8, busiest_second), (9, 0)]),
            ..TrafficSample::default()
        };
        LoadPlan::new(&settings.load, &before)
    }

    #[test]
    fn default_load_asks_more_than_busiest_second() {
        let plan = plan(&[], 50);
        assert_eq!(plan.rate, Some(60.0));
        assert_eq!(plan.to_string(), "60 requests/s");
    }

    #[test]
    fn default_load_without_traffic_asks_ten_per_second() {
        let settings = config::load(None, &[]).unwrap();
        let plan = LoadPlan::new(&settings.load, &TrafficSample::default());
        assert_eq!(plan.rate, Some(10.0));
    }

    #[test]
    fn set_rate_overrides_traffic_before() {
        assert_eq!(plan(&["load.rate=20.0"], 50).rate, Some(20.0));
    }

    #[test]
    fn set_concurrency_keeps_as_many_requests_unanswered() {
        let plan = plan(&["load.concurrency=500"], 50);
        assert_eq!((plan.concurrency, plan.rate), (500, None));
        assert_eq!(plan.to_string(), "500 requests at a time");
    }
}
