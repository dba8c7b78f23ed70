//! Sends the checks and the own requests of a bake, and collects their answers without waiting for slow ones.

use std::{collections::HashMap, iter::Cycle, sync::Arc, time::Duration, vec};

use futures_util::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, pending},
    stream::FuturesUnordered,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};

use crate::{
    bake::{
        checks::Checks,
        expected_answers::{ExpectedAnswers, Input},
        judge::Observation,
        own_requests::{MOST_UNANSWERED, OwnRequests},
    },
    color::Color,
    config::Settings,
    deployment::rollout::message,
    examples::Example,
    ports::{PortError, Ports, Prediction, Service, ServiceState, Target},
    release::Health,
};

/// How many own requests take their turn at a time.
const AT_A_TIME: u32 = 8;

/// Observes a candidate. Requests that are not answered within an observation go on, and count when they end.
pub(super) struct Observer<'a> {
    ports: &'a Ports,
    settings: &'a Settings,
    candidate: Color,
    began: Instant,
    running: FuturesUnordered<BoxFuture<'a, Ended<'a>>>,
    checks: Checks,
    /// Whether the fleet has not yet answered whether the candidate runs.
    asks_fleet: bool,
    test_inputs: Cycle<vec::IntoIter<Input<'a>>>,
    own_inputs: Cycle<vec::IntoIter<Input<'a>>>,
    /// How many streams of test requests are open.
    open_streams: u32,
    /// Own requests take turns, so that they are not a load.
    turns: Arc<Semaphore>,
    expected: ExpectedAnswers,
    pub(super) own_requests: OwnRequests,
    /// What ended since the last observation.
    observation: Observation,
}

/// What was sent, and how it ended.
enum Ended<'a> {
    Health(usize, Result<Health, PortError>),
    TestRequest(usize, Input<'a>, Result<Prediction, PortError>),
    /// A test request whose answer is a stream. It is no part of a check, because it may take longer than one.
    TestStream(Input<'a>, Result<Prediction, PortError>),
    OwnRequest(Target, Input<'a>, Result<Prediction, PortError>),
    /// How the candidate stopped, if it did; or why that is not known.
    Fleet(Result<Option<String>, String>),
}

impl<'a> Observer<'a> {
    /// Creates an observer that has sent nothing. `golden` has what the candidate answered in the gate `golden`.
    pub(super) fn new(
        ports: &'a Ports,
        settings: &'a Settings,
        candidate: Color,
        inputs: &'a [Example],
        golden: HashMap<String, String>,
    ) -> Self {
        let inputs = extremes_first(inputs).into_iter().cycle();
        Self {
            ports,
            settings,
            candidate,
            began: Instant::now(),
            running: FuturesUnordered::new(),
            checks: Checks::new(settings.probe.timeout, bound(settings)),
            asks_fleet: false,
            test_inputs: inputs.clone(),
            own_inputs: inputs,
            open_streams: 0,
            turns: Arc::new(Semaphore::new(AT_A_TIME as usize)),
            expected: ExpectedAnswers::new(golden, !settings.probe.kind.generates()),
            own_requests: OwnRequests::default(),
            observation: Observation::default(),
        }
    }

    /// Begins the check of an observation: a health check, and a request with the next test input.
    pub(super) fn begin_check(&mut self) {
        let target = Target::Server(self.candidate);
        let probe = &self.ports.probe;
        let input = self.test_inputs.next();
        let is_streamed = self.settings.probe.kind.is_streamed();
        let check = self.checks.begin(input.is_some() && !is_streamed);
        self.running
            .push(async move { Ended::Health(check, probe.health(target).await) }.boxed());
        let Some(input) = input else {
            return;
        };
        if !is_streamed {
            let request = async move {
                let answer = probe.predict(target, input.example).await;
                Ended::TestRequest(check, input, answer)
            };
            self.running.push(request.boxed());
        } else if self.open_streams < AT_A_TIME {
            self.open_streams += 1;
            // As clients get it: a stream may also break on its way through the router.
            let target = Target::ThroughRouter(self.candidate);
            let request = async move {
                let answer = probe.predict(target, input.example).await;
                Ended::TestStream(input, answer)
            };
            self.running.push(request.boxed());
        }
    }

    /// Sends own requests for `missing` ones, a few at a time. One that is slow makes room for the next, so that even if
    /// the candidate hangs all of them are sent before the next observation.
    pub(super) fn send_own_requests(&mut self, missing: usize) {
        let count = self.own_requests.to_send(missing);
        let slow = self.settings.bake.interval * AT_A_TIME / MOST_UNANSWERED;
        let target = self.own_requests.target(self.candidate);
        let probe = &self.ports.probe;
        for input in self.own_inputs.by_ref().take(count) {
            let turns = Arc::clone(&self.turns);
            let request = async move {
                let turn = turns.acquire().await;
                let mut answer = probe.predict(target, input.example);
                let in_turn = timeout(slow, &mut answer).await;
                drop(turn);
                let answer = match in_turn {
                    Ok(answer) => answer,
                    Err(_) => answer.await,
                };
                Ended::OwnRequest(target, input, answer)
            };
            self.running.push(request.boxed());
            self.own_requests.sent();
        }
    }

    /// Waits until the fleet says that the candidate has stopped.
    pub(super) async fn until_stopped(&mut self) {
        while self.observation.stopped.is_none() {
            self.await_one().await;
        }
    }

    /// Waits until the observation has the answers that it needs.
    pub(super) async fn until_complete(&mut self) {
        while !self.checks.is_complete() && self.observation.stopped.is_none() {
            self.await_one().await;
        }
    }

    /// Records everything that has ended until now.
    pub(super) fn record_ended(&mut self) {
        while let Some(Some(ended)) = self.running.next().now_or_never() {
            self.record(ended);
        }
    }

    /// Ends an observation with everything that was recorded since the last one.
    pub(super) fn end_observation(&mut self) -> Observation {
        let (health, request) = self.checks.end_observation();
        Observation {
            at: self.began.elapsed(),
            health,
            request,
            ..std::mem::take(&mut self.observation)
        }
    }

    /// Waits until something ends that was sent.
    async fn await_one(&mut self) {
        match self.running.next().await {
            Some(ended) => self.record(ended),
            None => pending().await,
        }
    }

    fn record(&mut self, ended: Ended<'a>) {
        match ended {
            Ended::Health(check, health) => {
                if health.is_err() {
                    self.ask_fleet();
                }
                self.checks.health_answered(check, health.map_err(message));
            }
            Ended::TestRequest(check, input, answer) => {
                self.expected.learn(input, &answer);
                self.count_test_request(input, &answer);
                let answer = answer.map(drop).map_err(message);
                self.checks.request_answered(check, answer);
            }
            Ended::TestStream(input, answer) => {
                self.open_streams = self.open_streams.saturating_sub(1);
                self.count_test_request(input, &answer);
            }
            Ended::OwnRequest(target, input, answer) => self.record_own(target, input, &answer),
            Ended::Fleet(answer) => {
                self.asks_fleet = false;
                match answer {
                    Ok(stopped) => self.observation.stopped = stopped,
                    Err(problem) => self
                        .observation
                        .unread
                        .push(format!("whether it still runs: {problem}")),
                }
            }
        }
    }

    /// Counts a test request, and records an answer that is wrong or of no use.
    fn count_test_request(&mut self, input: Input<'_>, answer: &Result<Prediction, PortError>) {
        let wrong = self.expected.difference(input, answer);
        let is_good = answer.is_ok() && wrong.is_none();
        self.observation.own.count(is_good);
        if let Some(wrong) = wrong {
            self.own_requests.record_wrong(wrong);
        }
    }

    fn record_own(
        &mut self,
        target: Target,
        input: Input<'a>,
        answer: &Result<Prediction, PortError>,
    ) {
        let wrong = self.expected.difference(input, answer);
        let good = answer.is_ok() && wrong.is_none();
        // On the clients' path the standby may have answered.
        let counts_as_good = if target == Target::Public {
            answer.is_ok()
        } else {
            good
        };
        self.observation.own.count(counts_as_good);
        if target == Target::Public {
            // A refusal is in the log as one; another label is not, and neither is an answer of no use.
            let wrong = wrong.filter(|_| matches!(answer, Ok(_) | Err(PortError::BadAnswer(_))));
            self.own_requests
                .ended_on_clients_path(self.began.elapsed(), wrong);
        } else {
            // This answer, instead of the log, is the evidence.
            self.observation.traffic.tally.count(good);
            self.expected.learn(input, answer);
            self.own_requests.ended_at_candidate(wrong);
        }
    }

    /// Asks the fleet whether the candidate still runs, unless a question is unanswered. A hanging engine must not keep
    /// traffic on a failing release.
    fn ask_fleet(&mut self) {
        if std::mem::replace(&mut self.asks_fleet, true) {
            return;
        }
        let limit = self.settings.probe.timeout;
        let inspection = self.ports.fleet.inspect(Service::Server(self.candidate));
        let question = async move {
            Ended::Fleet(match timeout(limit, inspection).await {
                Ok(Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _))) => {
                    Ok(Some(how))
                }
                Ok(Ok((ServiceState::Running | ServiceState::Unmanaged, _))) => Ok(None),
                Ok(Err(error)) => Err(message(error)),
                Err(_) => Err(format!(
                    "no answer within {}",
                    humantime::format_duration(limit)
                )),
            })
        };
        self.running.push(question.boxed());
    }
}

/// How long an observation may take.
pub(super) fn bound(settings: &Settings) -> Duration {
    settings.bake.interval.max(Duration::from_secs(1))
}

/// Returns all test inputs, the longest and the shortest first: a release may fail by the length of its inputs.
fn extremes_first(examples: &[Example]) -> Vec<Input<'_>> {
    let length = |place: &usize| examples[*place].body.len();
    let mut order: Vec<usize> = (0..examples.len()).collect();
    let shortest = order.iter().copied().min_by_key(length);
    let longest = order.iter().copied().max_by_key(length);
    for extreme in [shortest, longest].into_iter().flatten() {
        if let Some(at) = order.iter().position(|place| *place == extreme) {
            order[..=at].rotate_right(1);
        }
    }
    let input = |place: usize| Input {
        number: place + 1,
        example: &examples[place],
    };
    order.into_iter().map(input).collect()
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
            let lengths: Vec<usize> = ordered.iter().map(|it| it.example.body.len()).collect();
            assert_eq!(lengths, expected);
            let bodies = ordered.iter().map(|it| &examples[it.number - 1].body);
            assert!(bodies.eq(ordered.iter().map(|it| &it.example.body)));
        }
    }
}
