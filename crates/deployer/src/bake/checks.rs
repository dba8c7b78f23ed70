//! The checks of a bake, several of which may be unanswered at a time.

use std::{collections::VecDeque, time::Duration};

use crate::release::Health;

/// A time limit counts as over by this share early, because ticks and timers are not exact.
const TOLERANCE: f64 = 0.05;

/// Assigns each check to one observation: a health check and a test request that begin together.
///
/// A check that is answered at once counts in its own observation. Another one is due a fixed number of
/// observations later: when its time limit is over, counted in observations. If answers counted whenever they
/// came, two time-outs could fall into one observation and none into the next, and the row of failures would
/// seem to end.
#[derive(Debug)]
pub(super) struct Checks {
    time_limit: Duration,
    /// After how many more observations a check is due.
    delay: usize,
    /// The checks that are not due yet, the oldest first.
    pending: VecDeque<Check>,
    /// The number of the oldest pending check.
    first: usize,
    /// The number of the last check whose health was reported.
    last_healthy: Option<usize>,
}

/// A health check and a test request that began together.
#[derive(Debug)]
struct Check {
    health: Answer<Health>,
    request: Answer<()>,
}

/// An answer to a part of a check.
#[derive(Debug)]
enum Answer<T> {
    Awaited,
    Received(Result<T, String>),
    /// An observation has it, or nothing was asked.
    Done,
}

/// What an observation reports of a part of a check; `None` if it has no answer.
type Reported<T> = Option<Result<T, String>>;

impl<T> Answer<T> {
    fn is_awaited(&self) -> bool {
        matches!(self, Self::Awaited)
    }

    /// Takes the answer if there is one.
    fn take(&mut self) -> Reported<T> {
        match std::mem::replace(self, Self::Done) {
            Self::Received(answer) => Some(answer),
            Self::Awaited => {
                *self = Self::Awaited;
                None
            }
            Self::Done => None,
        }
    }
}

impl Checks {
    /// Creates checks that must be answered within `time_limit`, for observations that last at most `bound`.
    pub(super) fn new(time_limit: Duration, bound: Duration) -> Self {
        let limit = time_limit.mul_f64(1.0 - TOLERANCE).as_nanos();
        let observations = limit.div_ceil(bound.as_nanos().max(1));
        Self {
            time_limit,
            delay: usize::try_from(observations.saturating_sub(1)).unwrap_or(usize::MAX),
            pending: VecDeque::new(),
            first: 0,
            last_healthy: None,
        }
    }

    /// Begins the check of the next observation, with a test request or without one. Returns its number.
    pub(super) fn begin(&mut self, with_request: bool) -> usize {
        self.pending.push_back(Check {
            health: Answer::Awaited,
            request: if with_request {
                Answer::Awaited
            } else {
                Answer::Done
            },
        });
        self.first + self.pending.len() - 1
    }

    /// Records the answer to the health check with this number. Ignores it if the check was due before.
    pub(super) fn health_answered(&mut self, number: usize, answer: Result<Health, String>) {
        if let Some(check) = self.pending(number) {
            check.health = Answer::Received(answer);
        }
    }

    /// Records the answer to the test request with this number. Ignores it if the check was due before.
    pub(super) fn request_answered(&mut self, number: usize, answer: Result<(), String>) {
        if let Some(check) = self.pending(number) {
            check.request = Answer::Received(answer);
        }
    }

    fn pending(&mut self, number: usize) -> Option<&mut Check> {
        self.pending.get_mut(number.checked_sub(self.first)?)
    }

    /// Whether the observation has every answer that it waits for: to its own check, and to the check that is due.
    pub(super) fn is_complete(&self) -> bool {
        let due = self.pending.front().filter(|_| self.is_one_due());
        let mut awaited = self.pending.back().into_iter().chain(due);
        !awaited.any(|check| check.health.is_awaited() || check.request.is_awaited())
    }

    fn is_one_due(&self) -> bool {
        self.pending.len() > self.delay
    }

    /// Ends an observation. Returns the health and the result of the test request that it reports. Each is `None`
    /// without an answer.
    ///
    /// A failure of one of both checks is reported. Of two healthy answers the older one is not: its counters and
    /// its uptime would seem to fall.
    pub(super) fn end_observation(&mut self) -> (Reported<Health>, Reported<()>) {
        let newest = self.first + self.pending.len().saturating_sub(1);
        let own = self.pending.back_mut();
        let (mut health, mut request) = own
            .map(|check| (check.health.take(), check.request.take()))
            .unwrap_or_default();
        if let Some(Ok(_)) = health {
            self.last_healthy = Some(newest);
        }
        if !self.is_one_due() {
            return (health, request);
        }
        let Some(due) = self.pending.pop_front() else {
            return (health, request);
        };
        let outdated = self.last_healthy.is_some_and(|last| self.first <= last);
        match self.answer_when_due(due.health) {
            Some(Ok(late)) if !outdated && health.is_none() => {
                self.last_healthy = Some(self.first);
                health = Some(Ok(late));
            }
            Some(Err(failure)) if !matches!(health, Some(Err(_))) => health = Some(Err(failure)),
            _ => {}
        }
        match self.answer_when_due(due.request) {
            Some(Err(failure)) if !matches!(request, Some(Err(_))) => request = Some(Err(failure)),
            late => request = request.or(late),
        }
        self.first += 1;
        (health, request)
    }

    fn answer_when_due<T>(&self, mut answer: Answer<T>) -> Reported<T> {
        if answer.is_awaited() {
            let time_limit = humantime::format_duration(self.time_limit);
            return Some(Err(format!("no answer within {time_limit}")));
        }
        answer.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn health(uptime: f64) -> Health {
        Health {
            uptime_seconds: Some(uptime),
            ..Health::default()
        }
    }

    /// Ends an observation, and returns the uptime that it reports, or why it is not healthy.
    fn end(checks: &mut Checks) -> Option<Result<f64, String>> {
        let (health, _) = checks.end_observation();
        health.map(|health| health.map(|health| health.uptime_seconds.unwrap_or_default()))
    }

    fn no_answer(seconds: u32) -> String {
        format!("no answer within {seconds}s")
    }

    #[test]
    fn each_observation_of_a_hang_has_one_failure_once_time_limit_is_over() {
        for (time_limit, silent) in [(1, 0), (2, 1), (3, 2)] {
            let mut checks = Checks::new(time_limit * SECOND, SECOND);
            for observation in 0..6 {
                checks.begin(true);
                assert!(!checks.is_complete());
                let expected = (observation >= silent).then(|| Err(no_answer(time_limit)));
                assert_eq!(
                    end(&mut checks),
                    expected,
                    "{observation} of {time_limit} s"
                );
            }
        }
    }

    #[test]
    fn hanging_test_request_fails_although_health_is_good() {
        let mut checks = Checks::new(2 * SECOND, SECOND);
        let mut requests = Vec::new();
        for uptime in [1.0, 2.0, 3.0] {
            let number = checks.begin(true);
            checks.health_answered(number, Ok(health(uptime)));
            let (health, request) = checks.end_observation();
            assert!(health.is_some_and(|health| health.is_ok()));
            requests.push(request);
        }
        let failed = Some(Err(no_answer(2)));
        assert_eq!(requests, [None, failed.clone(), failed]);
    }

    #[test]
    fn late_answer_is_reported_when_due_unless_newer_health_is_known() {
        let mut checks = Checks::new(2 * SECOND, SECOND);
        let first = checks.begin(false);
        assert_eq!(end(&mut checks), None);
        checks.health_answered(first, Ok(health(1.0)));
        let second = checks.begin(false);
        assert_eq!(end(&mut checks), Some(Ok(1.0)));
        checks.health_answered(second, Ok(health(2.0)));
        let third = checks.begin(false);
        checks.health_answered(third, Ok(health(3.0)));
        assert!(checks.is_complete());
        assert_eq!(end(&mut checks), Some(Ok(3.0)));
        // The third check is due, and was reported.
        checks.begin(false);
        assert_eq!(end(&mut checks), None);
    }

    #[test]
    fn answer_after_time_limit_is_ignored() {
        let mut checks = Checks::new(SECOND, SECOND);
        let number = checks.begin(false);
        assert_eq!(end(&mut checks), Some(Err(no_answer(1))));
        checks.health_answered(number, Ok(health(1.0)));
        assert!(checks.is_complete());
        assert_eq!(end(&mut checks), None);
    }
}
