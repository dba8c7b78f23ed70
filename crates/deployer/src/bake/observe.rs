//! Observes a candidate during its bake.

use std::{fmt::Write as _, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::{
    bake::{
        judge::{Bake, Observation},
        own_requests::OwnRequests,
    },
    config::OnInconclusive,
    deployment::rollout::{Rollout, rounded, words},
    event::Event,
    evidence::{
        request::FirstAttempt,
        sample::TrafficSample,
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
    examples::Example,
    ports::{Service, ServiceState, Target},
};

/// Limits of the deployer's own requests, so that they are not a load.
const AT_A_TIME: usize = 8;
const IN_ONE_OBSERVATION: usize = 64;

impl Rollout<'_> {
    /// Observes the candidate until there is a verdict. If `since` (seconds since 1970) is given, earlier log
    /// lines are not evidence about this candidate.
    pub(crate) async fn bake(
        &self,
        before: TrafficSample,
        since: Option<f64>,
    ) -> Result<String, String> {
        let settings = &self.settings.bake;
        let mut bake = Bake::new(
            settings.clone(),
            before,
            &self.settings.probe.predict_path,
            false,
        );
        let started = Instant::now();
        let mut ticks = interval(settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let inputs = extremes_first(&self.examples.golden);
        let mut tests = inputs.iter().copied().cycle();
        let mut inputs = inputs.iter().copied().cycle();
        let mut own_requests = OwnRequests::default();
        let mut first_attempt = FirstAttempt::default();
        let mut missing = 0;
        let mut error_reported = false;
        loop {
            ticks.tick().await;
            let target = own_requests.target(self.plan.idle);
            let examples = inputs.by_ref().take(missing.min(IN_ONE_OBSERVATION));
            let (mut observation, answers) =
                tokio::join!(self.observation(tests.next()), self.send(target, examples));
            observation.at = started.elapsed();
            observation.own.add(answers);
            let count = usize::try_from(answers.requests).unwrap_or_default();
            if own_requests.answered(observation.at, count) {
                observation.traffic.tally.add(answers);
            }
            let read = self.read_into(
                &mut observation,
                &mut own_requests,
                &mut first_attempt,
                since,
            );
            if let Err(error) = read.await
                && !std::mem::replace(&mut error_reported, true)
            {
                self.reporter.report(&Event::Note { text: error });
            }
            bake.record(observation);
            // Own requests replace the traffic that a quiet service lacks.
            missing = bake.missing_requests();
            let elapsed = started.elapsed();
            let verdict = bake.verdict(elapsed);
            self.reporter.report(&Event::BakeObserved {
                elapsed,
                of: bake.until(),
                tally: bake.tally(),
                trouble: bake.trouble(),
            });
            if let Some(verdict) = verdict {
                return self.conclude(verdict, own_requests.sent(), elapsed);
            }
        }
    }

    /// Sends the deployer's own requests, a few at a time.
    async fn send<'a>(&self, target: Target, examples: impl Iterator<Item = &'a Example>) -> Tally {
        let answers = examples.map(|example| self.ports.probe.predict(target, example));
        let answers = stream::iter(answers).buffer_unordered(AT_A_TIME);
        answers.map(|answer| answer.is_ok()).collect().await
    }

    /// Adds the requests that the router logged.
    async fn read_into(
        &self,
        observation: &mut Observation,
        own_requests: &mut OwnRequests,
        first_attempt: &mut FirstAttempt,
        since: Option<f64>,
    ) -> Result<(), String> {
        match self.requests.new_requests().await {
            Some(Ok(mut requests)) => {
                requests.retain(|request| since.is_none_or(|since| request.at >= since));
                if !own_requests.match_log(&requests, observation.at) {
                    observation.unread.push(
                        "the router's log does not show the deployer's own requests".to_owned(),
                    );
                }
                first_attempt.exclude_before_first_attempt(self.plan.idle, &mut requests);
                observation
                    .traffic
                    .add(&TrafficSample::of(self.plan.idle, &requests));
                Ok(())
            }
            // Neither passes nor fails the release: own requests and counters remain.
            Some(Err(error)) => {
                let error = error.to_string();
                own_requests.log_unreadable();
                observation.unread.push(error.clone());
                Err(error)
            }
            None => {
                own_requests.log_unreadable();
                Ok(())
            }
        }
    }

    /// Returns a warning if log lines could not be parsed.
    fn unparsable_lines(&self) -> Option<String> {
        let count = self.requests.unparsable_lines();
        (count > 0).then(|| {
            format!(
                "unparsable lines of the router's log: {count} (nginx/ and the deployer belong together)"
            )
        })
    }

    /// Reports the verdict. Fails with the reason for a rollback.
    fn conclude(
        &self,
        mut verdict: Verdict,
        own_requests: usize,
        elapsed: Duration,
    ) -> Result<String, String> {
        if own_requests > 0 {
            let _ = write!(
                verdict.summary,
                "; own requests were added to the traffic: {own_requests}"
            );
        }
        verdict.warnings.extend(self.unparsable_lines());
        self.reporter.report(&Event::GateFinished {
            gate: "bake",
            verdict: &verdict,
        });
        let promoted = verdict.lets_through()
            || verdict.conclusion == Conclusion::Inconclusive
                && self.settings.bake.on_inconclusive == OnInconclusive::Promote;
        let (seconds, summary) = (rounded(elapsed), &verdict.summary);
        if promoted {
            Ok(format!("baked for {seconds}: {summary}"))
        } else {
            Err(format!("bake, after {seconds}: {summary}"))
        }
    }

    /// Observes the candidate itself, with this test request. What clients received is read from the log.
    async fn observation(&self, example: Option<&Example>) -> Observation {
        let idle = self.plan.idle;
        let target = Target::Server(idle);
        let probe = &self.ports.probe;
        let request = async {
            match example {
                Some(example) => Some(probe.predict(target, example).await),
                None => None,
            }
        };
        let (health, request) = tokio::join!(probe.health(target), request);
        let mut observation = Observation {
            health: Some(health.map_err(words)),
            own: request.iter().map(Result::is_ok).collect::<Tally>(),
            request: request.map(|answer| answer.map(drop).map_err(words)),
            ..Observation::default()
        };
        if let Some(Err(_)) = observation.health {
            match self.stopped().await {
                Ok(stopped) => observation.stopped = stopped,
                Err(problem) => observation
                    .unread
                    .push(format!("whether it still runs: {problem}")),
            }
        }
        observation
    }

    /// Returns how the candidate stopped, if it did. Waits no longer than for the candidate, because a hanging
    /// engine must not keep traffic on a failing release.
    async fn stopped(&self) -> Result<Option<String>, String> {
        let bound = self.settings.probe.timeout;
        let inspection = self.ports.fleet.inspect(Service::Server(self.plan.idle));
        let (state, _) = timeout(bound, inspection)
            .await
            .map_err(|_| format!("no answer within {}", humantime::format_duration(bound)))?
            .map_err(words)?;
        Ok(match state {
            ServiceState::Stopped(how) | ServiceState::Paused(how) => Some(how),
            ServiceState::Running | ServiceState::Unmanaged => None,
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

/// Returns all test inputs, the longest and the shortest first: a release may fail by the length of its inputs.
fn extremes_first(examples: &[Example]) -> Vec<&Example> {
    let length = |place: &usize| examples[*place].body.len();
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let shortest = order.iter().copied().min_by_key(length);
    let longest = order.iter().copied().max_by_key(length);
    for extreme in [shortest, longest].into_iter().flatten() {
        if let Some(at) = order.iter().position(|place| *place == extreme) {
            order[..=at].rotate_right(1);
        }
    }
    order.into_iter().map(|place| &examples[place]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_and_shortest_inputs_come_first_and_others_keep_their_order() {
        let example = |length: usize| Example {
            body: "x".repeat(length),
            expect: None,
        };
        for (given, expected) in [
            (vec![3, 5, 1, 4, 2], vec![5, 1, 3, 4, 2]),
            (vec![1, 2], vec![2, 1]),
            (vec![2, 1], vec![2, 1]),
            (vec![4], vec![4]),
            (vec![], vec![]),
        ] {
            let examples: Vec<Example> = given.into_iter().map(example).collect();
            let ordered = extremes_first(&examples);
            let lengths: Vec<usize> = ordered.iter().map(|it| it.body.len()).collect();
            assert_eq!(lengths, expected);
        }
    }
}
