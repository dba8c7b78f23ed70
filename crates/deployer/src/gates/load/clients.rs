//! How long the active color's clients wait while the candidate gets load.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::{
    color::Color,
    event::Event,
    evidence::{
        latency::{Latencies, milliseconds},
        load::LoadPlan,
        request::{Ending, Request},
        sample::TrafficSample,
        statistics::{Z_99, wilson},
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
    gates::{gate::Candidate, load::ABOVE_P99},
};

/// The time between two looks at the router's log.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long clients of the active color waited since the load began.
#[derive(Debug)]
pub(super) struct ClientWaits {
    /// The highest p99.
    limit: Duration,
    /// The share of requests that may take longer.
    allowed: f64,
    waits: Latencies,
}

impl ClientWaits {
    /// Clients that waited longer than `limit` already before are not slow because of the load.
    pub(super) fn after(before: &TrafficSample, limit: Duration) -> Self {
        let longer_before = before.waits.longer_than(limit).error_rate();
        Self {
            limit,
            allowed: longer_before.max(ABOVE_P99),
            waits: Latencies::default(),
        }
    }

    /// Skips what was logged before the load.
    pub(super) async fn begin(&mut self, candidate: &Candidate<'_>) {
        let problem = match candidate.requests.new_requests().await {
            Some(Ok(_)) => return,
            Some(Err(error)) => error.to_string(),
            None => "router.access_log is not set".to_owned(),
        };
        let text = format!("whether the load slows clients down was not observed: {problem}");
        candidate.reporter.report(&Event::Note { text });
    }

    /// Reads on in the log until clients certainly (99 %) wait too long. Never returns if they do not.
    pub(super) async fn wait_until_slow(
        &mut self,
        candidate: &Candidate<'_>,
        plan: LoadPlan,
    ) -> Verdict {
        let began = Instant::now();
        let active = candidate.color.other();
        loop {
            sleep(INTERVAL).await;
            let Some(Ok(requests)) = candidate.requests.new_requests().await else {
                continue;
            };
            self.add(active, &requests);
            if self.are_slow() {
                return self.verdict(active, plan, began.elapsed());
            }
        }
    }

    fn add(&mut self, active: Color, requests: &[Request]) {
        for request in requests.iter().filter(|request| !request.by_deployer) {
            let says_how_long = match request.ending_for(active) {
                None | Some(Ending::ByRouter) => false,
                // A client that gave up would have waited longer.
                Some(Ending::GaveUp | Ending::Left) => request.waited_for_answer() > self.limit,
                Some(_) => true,
            };
            if says_how_long {
                self.waits.record(request.waited_for_answer());
            }
        }
    }

    fn are_slow(&self) -> bool {
        wilson(self.waits.longer_than(self.limit), Z_99).low > self.allowed
    }

    fn verdict(&self, active: Color, plan: LoadPlan, elapsed: Duration) -> Verdict {
        let Tally { requests, failed } = self.waits.longer_than(self.limit);
        let summary = format!(
            "stopped after {:.1} s of {plan}, because it slows clients down: {failed} of {requests} requests to {active} took longer than {} (load.max_p99); lower load.rate, or deploy when clients send less",
            elapsed.as_secs_f64(),
            milliseconds(self.limit.as_secs_f64()),
        );
        Verdict::new(Conclusion::Inconclusive, summary)
            .with("client_requests", requests as f64)
            .with(
                "client_p99_seconds",
                self.waits.quantile(0.99).as_secs_f64(),
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::answered_by;

    const LIMIT: Duration = Duration::from_secs(1);

    fn waited(milliseconds: u64, count: usize) -> Vec<Request> {
        let request = Request {
            waited: Duration::from_millis(milliseconds),
            ..answered_by(Color::Blue, 200)
        };
        vec![request; count]
    }

    fn after(before: &[Request]) -> ClientWaits {
        ClientWaits::after(&TrafficSample::of(Color::Blue, before), LIMIT)
    }

    #[test]
    fn clients_above_the_limit_stop_the_load() {
        let mut clients = after(&waited(20, 100));
        clients.add(Color::Blue, &waited(20, 80));
        assert!(!clients.are_slow());
        clients.add(Color::Blue, &waited(1_500, 10));
        assert!(clients.are_slow());
        let plan = LoadPlan {
            concurrency: 500,
            duration: Duration::from_secs(5),
            rate: Some(60.0),
            timeout: Duration::from_secs(20),
        };
        let verdict = clients.verdict(Color::Blue, plan, Duration::from_millis(1_500));
        assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
        assert_eq!(
            verdict.summary,
            "stopped after 1.5 s of 60 requests/s, because it slows clients down: 10 of 90 requests to blue took longer than 1000 ms (load.max_p99); lower load.rate, or deploy when clients send less"
        );
        assert!(verdict.numbers["client_p99_seconds"] > 1.4);
    }

    #[test]
    fn single_slow_request_does_not_stop_the_load() {
        let mut clients = after(&[]);
        clients.add(Color::Blue, &waited(20, 20));
        clients.add(Color::Blue, &waited(1_500, 1));
        assert!(!clients.are_slow());
    }

    #[test]
    fn clients_that_were_slow_before_do_not_stop_the_load() {
        let mut before = waited(20, 80);
        before.extend(waited(1_500, 20));
        let mut clients = after(&before);
        clients.add(Color::Blue, &before);
        assert!(!clients.are_slow());
        clients.add(Color::Blue, &waited(1_500, 60));
        assert!(clients.are_slow());
    }

    #[test]
    fn only_client_requests_to_the_active_color_count() {
        let mut clients = after(&[]);
        let mut own = waited(1_500, 50);
        for request in &mut own {
            request.by_deployer = true;
        }
        clients.add(Color::Blue, &own);
        clients.add(Color::Green, &waited(1_500, 50));
        assert_eq!(clients.waits.count(), 0);
    }
}
