//! Observes a candidate during its bake.

use tokio::time::timeout;

use crate::{
    bake::{
        copies::Copies,
        judge::{Bake, Observation},
        observer::{Observer, bound},
        own_requests::OwnRequests,
    },
    deployment::rollout::{Rollout, message, seconds},
    event::Event,
    evidence::{passed_over::PassedOver, request::Request, sample::TrafficSample},
    ports::PortError,
};

/// What the router's log tells of a candidate.
pub(super) struct LogEvidence {
    /// Earlier lines (seconds since 1970) are not evidence about this candidate.
    since: Option<f64>,
    passed_over: PassedOver,
    error_reported: bool,
}

impl LogEvidence {
    pub(super) fn since(since: Option<f64>) -> Self {
        Self {
            since,
            passed_over: PassedOver::default(),
            error_reported: false,
        }
    }
}

impl Rollout<'_> {
    /// Makes one observation, with the answers to copies, and gives it to the judge.
    pub(super) async fn observe_all(
        &self,
        observer: &mut Observer<'_>,
        log: &mut LogEvidence,
        bake: &mut Bake,
        copies: &mut Copies<'_>,
    ) {
        let (mut observation, log_error) = self.observe(observer, log, copies.are_on()).await;
        match copies.read().await {
            Ok(answered) => observation.copies = answered,
            Err(error) => {
                bake.cannot_ask_previous();
                observation.unread.push(error.to_string());
            }
        }
        if let Some(text) = log_error
            && !std::mem::replace(&mut log.error_reported, true)
        {
            self.reporter.report(&Event::Note { text });
        }
        bake.record(observation);
    }

    /// Sends copies to the previous release while the bake asks it. Fails if the copies cannot be ended: they would be a
    /// load without an end.
    pub(super) async fn follow_question(
        &self,
        bake: &mut Bake,
        copies: &mut Copies<'_>,
    ) -> Result<(), String> {
        let asks = bake.is_asking_previous();
        if asks && !copies.are_on() {
            self.note(format!(
                "more requests are refused, given up, or slow than before the switch: the previous release on {} gets copies, to see whether it does better (bake.ask_previous)",
                self.plan.active
            ));
        }
        match copies.turn(asks).await {
            Err(_) if asks => {
                bake.cannot_ask_previous();
                self.ports.flags.set_shadow(false).await.map_err(message)
            }
            turned => turned.map_err(message),
        }
    }

    /// Makes one observation. The candidate and the log each have at most [`bound`] to answer. Returns also why the
    /// log could not be read, if it could not.
    async fn observe(
        &self,
        observer: &mut Observer<'_>,
        log: &mut LogEvidence,
        asks_previous: bool,
    ) -> (Observation, Option<String>) {
        // What is not answered yet is carried over.
        let _ = timeout(bound(self.settings), observer.until_complete()).await;
        observer.record_ended();
        // Copies are in flight too, and never in this log.
        let in_flight = if asks_previous {
            None
        } else {
            self.in_flight().await
        };
        let read = self.read_log().await;
        // The log may show requests whose answers came while it was read.
        observer.record_ended();
        let mut observation = observer.end_observation();
        observation.in_flight = in_flight;
        let own_requests = &mut observer.own_requests;
        let error = match read {
            Some(Ok(mut requests)) => {
                let problem = self.requests.problem();
                observation.unread.extend(problem.map(message));
                observation.missing = self.requests.missing().map(message);
                let spans = requests.iter().map(|request| (request.began(), request.at));
                observation.ended = Some(spans.collect());
                requests.retain(|request| log.since.is_none_or(|since| request.at >= since));
                let passed_over = &mut log.passed_over;
                self.add_logged(&mut observation, own_requests, passed_over, &mut requests);
                if asks_previous {
                    observation.originals = requests;
                }
                return (observation, None);
            }
            Some(Err(error)) => Some(error.to_string()),
            None => None,
        };
        own_requests.log_unreadable();
        // Neither passes nor fails the release: own requests and counters remain.
        observation.unread.extend(error.clone());
        (observation, error)
    }

    /// Asks the router for its requests in flight. Returns also when, in seconds since 1970.
    async fn in_flight(&self) -> Option<(f64, u64)> {
        let at = seconds(self.ports.clock.now());
        let asked = timeout(bound(self.settings), self.ports.router.in_flight()).await;
        Some((at, asked.ok()?.ok()?))
    }

    /// Reads on in the router's log, for at most [`bound`]. `None` if this machine cannot read the log.
    pub(crate) async fn read_log(&self) -> Option<Result<Vec<Request>, PortError>> {
        let bound = bound(self.settings);
        let read = timeout(bound, self.requests.new_requests()).await;
        read.unwrap_or_else(|_| {
            let bound = humantime::format_duration(bound);
            let message = format!("the router's log could not be read within {bound}");
            Some(Err(PortError::TimedOut(message)))
        })
    }

    /// Adds the requests that the router logged.
    fn add_logged(
        &self,
        observation: &mut Observation,
        own_requests: &mut OwnRequests,
        passed_over: &mut PassedOver,
        requests: &mut Vec<Request>,
    ) {
        let candidate = self.plan.idle;
        if !own_requests.match_log(requests, candidate, observation.at) {
            observation
                .unread
                .push("the router's log does not show the deployer's own requests".to_owned());
        }
        let now = seconds(self.ports.clock.now());
        let stood_in = passed_over.exclude(candidate, requests, now);
        let traffic = &mut observation.traffic;
        traffic.endings.count_stood_in(&stood_in);
        traffic.add(&TrafficSample::of(candidate, requests));
        // The log knows the status of an own request, and not what its answer should be.
        let tally = &mut traffic.tally;
        tally.failed += own_requests.take_logged_wrong();
        tally.failed = tally.failed.min(tally.requests);
    }

    /// Returns a warning if log lines could not be parsed.
    pub(super) fn unparsable_lines(&self) -> Option<String> {
        let count = self.requests.unparsable_lines();
        (count > 0).then(|| {
            format!(
                "unparsable lines of the router's log: {count} (nginx/ and the deployer belong together)"
            )
        })
    }

    /// What clients recently received from the active release.
    pub(crate) async fn before(&self) -> TrafficSample {
        let requests = self.requests.new_requests().await;
        let requests = requests.and_then(Result::ok).unwrap_or_default();
        TrafficSample::recent(self.plan.active, &requests)
    }

    /// The same, with requests from the time of the gates if there were too few before. Otherwise without them,
    /// because the gates are a load that slows clients down.
    pub(crate) async fn before_and_since(&self, before: TrafficSample) -> TrafficSample {
        if before.is_comparable() {
            return before;
        }
        match self.requests.recent_requests().await {
            Some(Ok(requests)) => TrafficSample::recent(self.plan.active, &requests),
            _ => before,
        }
    }

    /// What clients received from the active release before the switch at `switched` (seconds since 1970), read
    /// from the log alone.
    pub(crate) async fn traffic_before(&self, switched: f64) -> TrafficSample {
        /// Longer than any request that was in flight at the switch.
        const INTERLEAVED: f64 = 30.0;

        let Some(Ok(mut requests)) = self.requests.recent_requests().await else {
            return TrafficSample::default();
        };
        let active = self.plan.active;
        requests.retain(|request| {
            request.at < switched
                && (request.wanted == Some(active) || request.at < switched - INTERLEAVED)
        });
        TrafficSample::recent(active, &requests)
    }
}
