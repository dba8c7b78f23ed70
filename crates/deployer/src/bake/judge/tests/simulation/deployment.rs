//! One simulated deployment: what the observer reads each second, and the real judge.

use std::time::Duration;

use super::clients::{
    Affected, CANDIDATE, Clients, Fault, Habit, INPUTS, Release, SWITCH, Sent, own,
};
use crate::{
    bake::{
        checks::Checks,
        judge::{Bake, Observation},
        own_requests::OwnRequests,
    },
    color::Color,
    config::{self, OnInconclusive, Settings},
    evidence::{
        request::Request,
        sample::TrafficSample,
        verdict::{Conclusion, Verdict},
    },
    release::Health,
};

/// How long nginx keeps log lines in its buffer, in seconds.
const LOG_LAG: f64 = 0.5;

/// How long after its begin an observation reads the log, in seconds.
const READ_AFTER: f64 = 0.1;

/// How many requests clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// One request in two seconds, read for 15 minutes before the switch.
    Quiet,
    /// 50 requests per second, read for a minute before the switch.
    Busy,
}

/// What is deployed to which clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) service: Service,
    pub(super) habit: Habit,
    /// The fault, the affected share (0–1), and which requests it affects.
    pub(super) fault: Option<(Fault, f64, Affected)>,
}

/// An answer to a request of the deployer.
#[derive(Debug)]
struct Answer {
    at: f64,
    /// Whether it is the expected one.
    good: bool,
    /// Why the answer is not the one in the gate `golden`.
    wrong: Option<String>,
    /// The check, and the result of its test request, unless this is an own request through the router.
    check: Option<(usize, Result<(), String>)>,
}

/// A deployment after the switch.
struct Deployment {
    random: fastrand::Rng,
    timeout: Duration,
    clients: Clients,
    /// What is not in the log yet.
    unlogged: Vec<Sent>,
    unlogged_own: Vec<Request>,
    answers: Vec<Answer>,
    checks: Checks,
    own_requests: OwnRequests,
    inputs: [std::iter::Cycle<std::ops::Range<usize>>; 2],
    bake: Bake,
}

/// How a deployment ended.
pub(super) struct Ended {
    /// Whether the release stays.
    pub(super) stays: bool,
    /// How many requests of clients the fault affected until then.
    pub(super) affected: u64,
    pub(super) verdict: Verdict,
}

/// Deploys once.
pub(super) fn deploy(case: Case, settings: &Settings, seed: u64) -> Ended {
    let mut deployment = Deployment::new(case, settings, seed);
    let interval = settings.bake.interval.as_secs_f64();
    let verdict = (0..)
        .find_map(|number| deployment.observe(interval * f64::from(number), interval))
        .expect("every bake ends");
    let stays = verdict.lets_through()
        || verdict.conclusion == Conclusion::Inconclusive
            && settings.bake.on_inconclusive == OnInconclusive::Promote;
    Ended {
        stays,
        affected: deployment.clients.affected,
        verdict,
    }
}

/// The shipped settings.
pub(super) fn shipped_settings() -> Settings {
    config::load(None, &[]).expect("valid settings")
}

impl Deployment {
    fn new(case: Case, settings: &Settings, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let (rate, before) = match case.service {
            Service::Quiet => (0.5, 900.0),
            Service::Busy => (50.0, 60.0),
        };
        let release = case
            .fault
            .map_or_else(Release::healthy, |(fault, share, affected)| {
                Release::with_fault(fault, share, affected, &mut random)
            });
        let mut clients = Clients {
            rate,
            habit: case.habit,
            burst: SWITCH + 55.0 * random.f64(),
            release,
            sent: 0,
            affected: 0,
            hanging: 0,
        };
        let earlier = clients.send(SWITCH - before, SWITCH, &mut random);
        let (logged, unlogged): (Vec<_>, Vec<_>) = earlier
            .into_iter()
            .partition(|sent| sent.request.at < SWITCH);
        let logged: Vec<Request> = logged.into_iter().map(|sent| sent.request).collect();
        let before = TrafficSample::of(Color::Blue, &logged);
        let bound = settings.bake.interval.max(Duration::from_secs(1));
        Self {
            random,
            timeout: settings.probe.timeout,
            clients,
            unlogged,
            unlogged_own: Vec::new(),
            answers: Vec::new(),
            checks: Checks::new(settings.probe.timeout, bound),
            own_requests: OwnRequests::default(),
            inputs: [(0..INPUTS).cycle(), (0..INPUTS).cycle()],
            bake: Bake::new(
                settings.bake.clone(),
                before,
                &settings.probe.predict_path,
                true,
            ),
        }
    }

    /// Makes the observation that begins at this time since the switch. Returns the verdict if there is one.
    fn observe(&mut self, begins: f64, interval: f64) -> Option<Verdict> {
        let asks_previous = self.bake.is_asking_previous();
        let begins = SWITCH + begins;
        self.begin_check(begins);
        let missing = self.own_requests.to_send(self.bake.missing_requests());
        for _ in 0..missing {
            self.send_own_request(begins);
        }
        let now = begins + READ_AFTER;
        let since = (now - interval).max(SWITCH);
        let sent = self.clients.send(since, now, &mut self.random);
        self.unlogged.extend(sent);

        let mut observation = Observation::default();
        self.record_answers(&mut observation, now);
        (observation.health, observation.request) = self.checks.end_observation();
        observation.at = Duration::from_secs_f64(now - SWITCH);
        // Copies are in flight too.
        observation.in_flight = (!asks_previous).then(|| (now, self.in_flight(now)));
        self.read_log(&mut observation, now, asks_previous);
        let elapsed = observation.at;
        self.bake.record(observation);
        self.bake.verdict(elapsed)
    }

    /// Sends a health check and a test request to the candidate itself.
    fn begin_check(&mut self, now: f64) {
        let check = self.checks.begin(true);
        self.checks.health_answered(check, Ok(Health::default()));
        let input = self.inputs[0].next().unwrap_or_default();
        let fault = self.clients.release.fault_on(input, &mut self.random);
        let answered = own(fault, input, now, self.timeout, &mut self.random);
        let result = match fault {
            Some(Fault::Hang | Fault::Refuse | Fault::Cut | Fault::Fail) => {
                Err("failed".to_owned())
            }
            Some(Fault::Slow | Fault::AnswerNothing) | None => Ok(()),
        };
        self.answers.push(Answer {
            at: answered.at,
            good: result.is_ok() && fault != Some(Fault::AnswerNothing),
            wrong: None,
            check: Some((check, result)),
        });
    }

    /// Sends an own request through the router.
    fn send_own_request(&mut self, now: f64) {
        self.own_requests.sent();
        let input = self.inputs[1].next().unwrap_or_default();
        let fault = self.clients.release.fault_on(input, &mut self.random);
        let request = own(fault, input, now, self.timeout, &mut self.random);
        let wrong = match fault {
            Some(Fault::Refuse) => Some("refused".to_owned()),
            Some(Fault::AnswerNothing) => Some("gave no label".to_owned()),
            _ => None,
        };
        self.answers.push(Answer {
            at: request.at,
            good: wrong.is_none() && !matches!(fault, Some(Fault::Hang | Fault::Cut)),
            wrong,
            check: None,
        });
        self.unlogged_own.push(request);
    }

    fn record_answers(&mut self, observation: &mut Observation, now: f64) {
        for answer in self.answers.extract_if(.., |answer| answer.at <= now) {
            observation.own.count(answer.good);
            if let Some((check, result)) = answer.check {
                self.checks.request_answered(check, result);
            } else {
                let at = Duration::from_secs_f64(answer.at - SWITCH);
                self.own_requests.ended_on_clients_path(at, answer.wrong);
            }
        }
    }

    /// How many requests the router works on.
    fn in_flight(&self, now: f64) -> u64 {
        let own = self.unlogged_own.iter();
        let requests = self.unlogged.iter().map(|sent| &sent.request).chain(own);
        let in_flight = requests.filter(|request| request.at > now).count();
        self.clients.hanging + in_flight as u64
    }

    /// Reads on in the log, and in the log of copies.
    fn read_log(&mut self, observation: &mut Observation, now: f64, asks_previous: bool) {
        let until = now - LOG_LAG;
        let mut requests = Vec::new();
        for sent in self
            .unlogged
            .extract_if(.., |sent| sent.request.at <= until)
        {
            if asks_previous {
                observation.copies.extend(sent.copy(&mut self.random));
            }
            requests.push(sent.request);
        }
        let own = self
            .unlogged_own
            .extract_if(.., |request| request.at <= until);
        requests.extend(own);
        let spans = requests.iter().map(|request| (request.began(), request.at));
        observation.ended = Some(spans.collect());
        let shown = self
            .own_requests
            .match_log(&requests, CANDIDATE, observation.at);
        assert!(shown, "the log shows all own requests");
        observation.traffic = TrafficSample::of(CANDIDATE, &requests);
        let tally = &mut observation.traffic.tally;
        tally.failed += self.own_requests.take_logged_wrong();
        tally.failed = tally.failed.min(tally.requests);
        if asks_previous {
            observation.originals = requests;
        }
    }
}
