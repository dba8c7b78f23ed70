//! Simulated clients, and how two releases and the router end their requests.

use std::time::Duration;

use crate::{
    color::Color,
    evidence::request::{Attempt, Request, answered_by},
};

/// When traffic moved, in seconds since 1970.
pub(super) const SWITCH: f64 = 1e9;

/// The inputs that clients send.
pub(super) const INPUTS: usize = 200;

/// The release that gets the traffic, and the one before.
pub(super) const CANDIDATE: Color = Color::Green;
const PREVIOUS: Color = Color::Blue;

/// What a release does to some requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It never answers.
    Hang,
    /// It answers after [`SLOW`], and clients give up after [`PATIENCE`].
    Slow,
    /// It answers 422.
    Refuse,
    /// It breaks the answer off.
    Cut,
    /// It answers 500, and the standby answers in its place.
    Fail,
    /// It answers 200 without a body and without a label.
    AnswerNothing,
}

pub(super) const SLOW: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(1);

/// Which requests a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affected {
    /// Each with the same probability.
    AtRandom,
    /// Some inputs, always.
    ByInput,
}

/// What else clients do that is no fault of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Habit {
    /// Nothing.
    Usual,
    /// Within five seconds after the switch they send three times as many requests; both releases refuse the additional ones.
    BadBurst,
    /// One client sends, after the switch, one request in ten; both releases refuse them.
    BadClient,
    /// After the switch a client sends as many requests as all others; both releases refuse one in ten of them.
    NewClient,
    /// They give up after 50 ms.
    ShortTimeouts,
    /// They send a request again after 30 ms, and cancel the one that is not answered first.
    Hedging,
    /// One request in ten is HEAD.
    Head,
    /// One request in ten waits 20 s to 30 s for its answer.
    LongPolls,
    /// One answer in five is a stream that the client cancels.
    CancelledStreams,
    /// Both releases fail 6 % of the requests.
    FailingRequests,
}

impl Habit {
    pub(super) const ALL: [Self; 10] = [
        Self::Usual,
        Self::BadBurst,
        Self::BadClient,
        Self::NewClient,
        Self::ShortTimeouts,
        Self::Hedging,
        Self::Head,
        Self::LongPolls,
        Self::CancelledStreams,
        Self::FailingRequests,
    ];
}

/// The release that gets the traffic.
#[derive(Debug, Clone)]
pub(super) struct Release {
    fault: Option<Fault>,
    /// The share of affected requests, 0–1.
    share: f64,
    /// The affected inputs, if the input decides.
    inputs: Option<Vec<bool>>,
}

impl Release {
    pub(super) fn healthy() -> Self {
        Self {
            fault: None,
            share: 0.0,
            inputs: None,
        }
    }

    pub(super) fn with_fault(
        fault: Fault,
        share: f64,
        affected: Affected,
        random: &mut fastrand::Rng,
    ) -> Self {
        let mut inputs: Vec<bool> = (0..INPUTS)
            .map(|input| (input as f64) < (share * INPUTS as f64).round())
            .collect();
        random.shuffle(&mut inputs);
        Self {
            fault: Some(fault),
            share,
            inputs: (affected == Affected::ByInput).then_some(inputs),
        }
    }

    /// What it does to a request with this input.
    pub(super) fn fault_on(&self, input: usize, random: &mut fastrand::Rng) -> Option<Fault> {
        let affected = match &self.inputs {
            Some(inputs) => inputs[input],
            None => random.f64() < self.share,
        };
        self.fault.filter(|_| affected)
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prediction,
    /// Every release refuses it with this status.
    Bad(u16),
    /// Every release answers 500.
    Failing,
    Head,
    Poll,
    /// The client cancels the answer.
    Stream,
}

/// A request, and what another release would do with it.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) request: Request,
    kind: Kind,
}

/// Sends requests at random times, with a rate in requests per second.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) rate: f64,
    pub(super) habit: Habit,
    /// When the burst of bad requests begins, in seconds since 1970.
    pub(super) burst: f64,
    pub(super) release: Release,
    pub(super) sent: u64,
    /// How many requests a fault affected.
    pub(super) affected: u64,
    /// How many requests hang: the log never shows them.
    pub(super) hanging: u64,
}

impl Clients {
    /// The requests that begin between these times, with their ends.
    pub(super) fn send(&mut self, from: f64, to: f64, random: &mut fastrand::Rng) -> Vec<Sent> {
        let mut sent = Vec::new();
        for began in times(self.rate, from, to, random) {
            let client = format!("client {}", (20.0 * random.f64().powi(2)).floor());
            let kind = self.usual_kind(random);
            self.send_one(&mut sent, began, &client, kind, random);
        }
        let since = from.max(SWITCH);
        match self.habit {
            Habit::BadBurst => {
                let burst = from.max(self.burst)..to.min(self.burst + 5.0);
                for began in times(2.0 * self.rate, burst.start, burst.end, random) {
                    let client = format!("client {}", random.u32(0..20));
                    self.send_one(&mut sent, began, &client, Kind::Bad(422), random);
                }
            }
            Habit::BadClient => {
                for began in times(self.rate / 9.0, since, to, random) {
                    self.send_one(&mut sent, began, "bad", Kind::Bad(401), random);
                }
            }
            Habit::NewClient => {
                for began in times(self.rate, since, to, random) {
                    let kind = if random.f64() < 0.1 {
                        Kind::Bad(422)
                    } else {
                        Kind::Prediction
                    };
                    self.send_one(&mut sent, began, "new", kind, random);
                }
            }
            _ => {}
        }
        sent
    }

    fn usual_kind(&self, random: &mut fastrand::Rng) -> Kind {
        let (share, kind) = match self.habit {
            Habit::Head => (0.1, Kind::Head),
            Habit::LongPolls => (0.1, Kind::Poll),
            Habit::CancelledStreams => (0.2, Kind::Stream),
            Habit::FailingRequests => (0.06, Kind::Failing),
            _ => (0.0, Kind::Prediction),
        };
        if random.f64() < share {
            kind
        } else {
            Kind::Prediction
        }
    }

    fn send_one(
        &mut self,
        sent: &mut Vec<Sent>,
        began: f64,
        client: &str,
        kind: Kind,
        random: &mut fastrand::Rng,
    ) {
        let color = if began < SWITCH { PREVIOUS } else { CANDIDATE };
        let input = random.usize(0..INPUTS);
        let fault = match color {
            CANDIDATE => self.release.fault_on(input, random),
            PREVIOUS => None,
        };
        self.affected += u64::from(fault.is_some());
        if fault == Some(Fault::Hang) {
            self.hanging += 1;
            return;
        }
        let mut push = |began: f64, mut request: Request| {
            self.sent += 1;
            request.id = self.sent.to_string();
            client.clone_into(&mut request.client);
            request.at = began + request.waited.as_secs_f64();
            sent.push(Sent { request, kind });
        };
        let took = latency(random);
        let request = ended(color, input, kind, took, random);
        match self.habit {
            _ if let Some(fault) = fault => {
                let gives_up = fault == Fault::Slow;
                let faulty = affected(fault, input);
                push(
                    began,
                    if gives_up {
                        given_up(faulty, PATIENCE)
                    } else {
                        faulty
                    },
                );
            }
            Habit::ShortTimeouts if took > Duration::from_millis(50) => {
                push(began, given_up(request, Duration::from_millis(50)));
            }
            Habit::Hedging if took > Duration::from_millis(30) => {
                let after = Duration::from_millis(30);
                let second_took = latency(random);
                let second = ended(color, input, kind, second_took, random);
                let again = began + after.as_secs_f64();
                if took < after + second_took {
                    push(began, request);
                    push(again, given_up(second, took.saturating_sub(after)));
                } else {
                    push(began, given_up(request, after + second_took));
                    push(again, second);
                }
            }
            _ => push(began, request),
        }
    }
}

impl Sent {
    /// What the previous release answers to a copy; `None` if its answer is not logged in time.
    pub(super) fn copy(&self, random: &mut fastrand::Rng) -> Option<Request> {
        let copy = match self.kind {
            Kind::Poll => return None,
            Kind::Bad(status) => answered(PREVIOUS, status, latency(random)),
            Kind::Failing => answered(PREVIOUS, 500, latency(random)),
            _ => answered(PREVIOUS, 200, latency(random)),
        };
        Some(Request {
            id: self.request.id.clone(),
            route: self.request.route.clone(),
            ..copy
        })
    }
}

/// Random times between both, with this rate per second.
fn times(rate: f64, from: f64, to: f64, random: &mut fastrand::Rng) -> Vec<f64> {
    let mut times = Vec::new();
    let mut time = from;
    loop {
        time -= (1.0 - random.f64()).ln() / rate;
        if time >= to {
            return times;
        }
        times.push(time);
    }
}

/// Log-normal: typically 20 ms, and 64 ms at p99.
pub(super) fn latency(random: &mut fastrand::Rng) -> Duration {
    let normal: f64 = (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    Duration::from_secs_f64(0.02 * (normal / 2.0).exp())
}

/// A prediction that `color` answered after this time.
pub(super) fn answered(color: Color, status: u16, took: Duration) -> Request {
    Request {
        attempts: vec![attempt(color, status, took)],
        waited: took,
        ..answered_by(color, status)
    }
}

fn attempt(color: Color, status: u16, took: Duration) -> Attempt {
    Attempt {
        color,
        status: Some(status),
        to_head: Some(took),
        to_end: Some(took),
    }
}

/// A prediction for this input that a release answered.
fn predicted(color: Color, input: usize, took: Duration) -> Request {
    let answer_size = 80 + (input % 20) as u64;
    let label = if input % 5 < 3 {
        "positive"
    } else {
        "negative"
    };
    Request {
        size: 300 + input as u64,
        answer_size,
        promised_size: Some(answer_size),
        label: Some(label.to_owned()),
        ..answered(color, 200, took)
    }
}

/// How a request ends that no fault of a release affects.
fn ended(
    color: Color,
    input: usize,
    kind: Kind,
    took: Duration,
    random: &mut fastrand::Rng,
) -> Request {
    let mut request = predicted(color, input, took);
    match kind {
        Kind::Prediction => {}
        Kind::Bad(status) => request = refused(color, input, status, took),
        Kind::Failing => {
            request = Request {
                attempts: vec![attempt(color, 500, took), attempt(color.other(), 500, took)],
                ..refused(color, input, 500, 2 * took)
            }
        }
        Kind::Head => {
            "HEAD".clone_into(&mut request.route.method);
            (request.answer_size, request.label) = (0, None);
        }
        Kind::Poll => {
            let took = Duration::from_secs_f64(20.0 + 10.0 * random.f64());
            request = predicted(color, input, took);
            "GET".clone_into(&mut request.route.method);
            "/events".clone_into(&mut request.route.path);
            request.label = None;
        }
        Kind::Stream => {
            request.status = 499;
            request.answer_size /= 2;
            request.promised_size = None;
        }
    }
    request
}

fn refused(color: Color, input: usize, status: u16, took: Duration) -> Request {
    Request {
        size: 300 + input as u64,
        answer_size: 30,
        ..answered(color, status, took)
    }
}

/// The same request if its client gives up after this time.
fn given_up(mut request: Request, after: Duration) -> Request {
    request.attempts.truncate(1);
    for attempt in &mut request.attempts {
        (attempt.status, attempt.to_head) = (None, None);
        attempt.to_end = Some(after);
    }
    Request {
        status: 499,
        waited: after,
        answer_size: 0,
        promised_size: None,
        label: None,
        ..request
    }
}

/// How a request ends that a fault affects.
fn affected(fault: Fault, input: usize) -> Request {
    let took = Duration::from_millis(5);
    let good = predicted(CANDIDATE, input, took);
    match fault {
        // Nothing limits how long the deployer waits here; see `own`.
        Fault::Hang => predicted(CANDIDATE, input, Duration::MAX),
        Fault::Slow => predicted(CANDIDATE, input, SLOW),
        Fault::Refuse => refused(CANDIDATE, input, 422, took),
        Fault::Cut => Request {
            cut: true,
            answer_size: 6,
            ..good
        },
        Fault::Fail => Request {
            attempts: vec![attempt(CANDIDATE, 500, took), attempt(PREVIOUS, 200, took)],
            ..good
        },
        Fault::AnswerNothing => Request {
            answer_size: 0,
            promised_size: Some(0),
            label: None,
            ..good
        },
    }
}

/// How a request of the deployer ends, which gives up after `timeout`.
pub(super) fn own(
    fault: Option<Fault>,
    input: usize,
    began: f64,
    timeout: Duration,
    random: &mut fastrand::Rng,
) -> Request {
    let mut request = match fault {
        Some(fault) => affected(fault, input),
        None => predicted(CANDIDATE, input, latency(random)),
    };
    if request.waited > timeout {
        request = given_up(request, timeout);
    }
    request.by_deployer = true;
    request.at = began + request.waited.as_secs_f64();
    request
}
