//! Requests that passed a color over, because nginx remembers that it failed.
//!
//! nginx remembers that a color failed, whatever it runs now: it passes the color over for up to two seconds, tries it
//! with one request, and passes it over until that request is answered.

use std::collections::VecDeque;

use crate::{
    color::Color,
    evidence::request::{Ending, Request},
};

/// Tells which requests that passed a color over are evidence about its release.
#[derive(Debug, Default)]
pub struct PassedOver {
    first_attempt: FirstAttempt,
    causes: Causes,
}

impl PassedOver {
    /// Removes requests that passed `color` over and say nothing of its release: because of the release before, or of
    /// requests that fail on both colors. Returns the latter. `now` is in seconds since 1970.
    pub fn exclude(&mut self, color: Color, requests: &mut Vec<Request>, now: f64) -> Vec<Request> {
        self.first_attempt
            .exclude_before_first_attempt(color, requests);
        self.causes.exclude_if_both_failed(color, requests, now)
    }
}

/// Finds the point in the log from which it is evidence about a release that has just received traffic.
#[derive(Debug, Default)]
struct FirstAttempt {
    /// When the first request that tried the color ended, in seconds since 1970.
    ended: Option<f64>,
}

impl FirstAttempt {
    /// A worker of nginx reads the clock once for all that it does between two waits, and writes that time into the log.
    /// So on a busy machine it forgets the failures of the release before a moment after the logged end, and until then
    /// the other workers pass the color over.
    const CLOCK_LAG: f64 = 0.5;

    /// Removes requests that passed `color` over because of the release before.
    fn exclude_before_first_attempt(&mut self, color: Color, requests: &mut Vec<Request>) {
        let tries = requests.iter().filter(|request| request.tried(color));
        let ends = tries.map(|request| request.at);
        // The workers of nginx write their lines in any order.
        self.ended = ends.chain(self.ended).reduce(f64::min);
        let speaks = |request: &Request| {
            let ended = self.ended;
            ended.is_some_and(|ended| request.began() >= ended + Self::CLOCK_LAG)
        };
        requests.retain(|request| !request.passed_over(color) || speaks(request));
    }
}

/// Tells whether the color itself, or requests that fail on both colors, made nginx pass it over.
#[derive(Debug, Default)]
struct Causes {
    /// When a request failed, in seconds since 1970, and whether it failed on both colors.
    failures: VecDeque<(f64, bool)>,
    /// Requests that passed the color over, without a cause in the log so far, and when they were read.
    undecided: Vec<(f64, Request)>,
}

impl Causes {
    /// nginx remembers failures for up to two seconds. The workers write their lines up to half a second late.
    const REMEMBERED: f64 = 3.0;
    const LATE: f64 = 1.0;

    /// Removes requests that passed `color` over because more requests failed on both colors than on `color` alone.
    /// Returns them: the standby stood in, and `color` is not to blame.
    ///
    /// The workers of nginx write their lines up to half a second late. So a request without a known cause is returned by
    /// a later call, and then counts against the color if there is still no cause. `now` is in seconds since 1970.
    fn exclude_if_both_failed(
        &mut self,
        color: Color,
        requests: &mut Vec<Request>,
        now: f64,
    ) -> Vec<Request> {
        let failures = requests.iter().filter_map(|request| {
            let ending = request.ending_for(color).filter(|_| request.tried(color))?;
            // nginx remembers what it retries (proxy_next_upstream).
            let first = request.attempts.first()?;
            let retried = first.to_head.is_none() || matches!(first.status, Some(500 | 502 | 503));
            match ending {
                Ending::BothFailed if retried => Some((request.at, true)),
                Ending::Failed if retried => Some((request.at, false)),
                _ => None,
            }
        });
        self.failures.extend(failures);
        let undecided = std::mem::take(&mut self.undecided);
        let new = requests.drain(..).map(|request| (now, request));
        let all: Vec<(f64, Request)> = undecided.into_iter().chain(new).collect();
        let mut stood_in = Vec::new();
        for (read, request) in all {
            let cause = if request.passed_over(color) {
                self.cause_of(&request)
            } else {
                Some(Cause::ColorAlone)
            };
            match cause {
                Some(Cause::BothColors) => stood_in.push(request),
                None if now < read + Self::LATE => self.undecided.push((read, request)),
                None | Some(Cause::ColorAlone) => requests.push(request),
            }
        }
        self.failures
            .retain(|(at, _)| *at >= now - 2.0 * Self::REMEMBERED);
        stood_in
    }

    fn cause_of(&self, request: &Request) -> Option<Cause> {
        let remembered = request.began() - Self::REMEMBERED..=request.at;
        let causes = self.failures.iter().copied();
        let causes = causes.filter(|(at, _)| remembered.contains(at));
        let (mut both, mut alone) = (0, 0);
        for (_, on_both) in causes {
            *if on_both { &mut both } else { &mut alone } += 1;
        }
        match (both, alone) {
            (0, 0) => None,
            (both, alone) if both > alone => Some(Cause::BothColors),
            _ => Some(Cause::ColorAlone),
        }
    }
}

/// Why nginx passed a color over.
#[derive(Debug, PartialEq, Eq)]
enum Cause {
    ColorAlone,
    BothColors,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::evidence::request::answered_by;

    const GREEN: Color = Color::Green;

    /// A request for green with these answers.
    fn request(status: u16, attempts: &[(Color, u16)]) -> Request {
        let mut request = answered_by(GREEN, status);
        let attempt = request.attempts[0];
        let attempts = attempts.iter().map(|(color, status)| {
            let mut attempt = attempt;
            attempt.color = *color;
            attempt.status = Some(*status);
            attempt
        });
        request.attempts = attempts.collect();
        request
    }

    /// A request that ended at this time after 100 ms.
    fn at(at: f64, request: Request) -> Request {
        let waited = Duration::from_millis(100);
        Request {
            at,
            waited,
            ..request
        }
    }

    #[test]
    fn passed_over_color_counts_only_after_first_attempt() {
        let passed_over = || request(200, &[(Color::Blue, 200)]);
        let answered = request(200, &[(GREEN, 200)]);
        let failed = request(200, &[(GREEN, 500), (Color::Blue, 200)]);
        for attempt in [answered, failed] {
            let mut first_attempt = FirstAttempt::default();
            let mut remaining = |mut requests: Vec<Request>| {
                first_attempt.exclude_before_first_attempt(GREEN, &mut requests);
                requests.iter().map(|it| it.at).collect::<Vec<_>>()
            };
            assert_eq!(remaining(vec![at(1.0, passed_over())]), [0.0; 0]);
            let later = vec![
                // Began during the first attempt.
                at(2.05, passed_over()),
                at(2.0, attempt),
                // Began before the first attempt's worker wrote what it found.
                at(2.5, passed_over()),
                at(3.0, passed_over()),
            ];
            assert_eq!(remaining(later), [2.0, 3.0]);
            assert_eq!(remaining(vec![at(4.0, passed_over())]), [4.0]);
        }
    }

    #[test]
    fn client_that_left_is_no_attempt() {
        let mut client_left = at(1.0, request(499, &[(GREEN, 200)]));
        client_left.attempts[0].status = None;
        let passed_over = request(200, &[(Color::Blue, 200)]);
        let mut requests = vec![client_left, at(2.0, passed_over)];
        FirstAttempt::default().exclude_before_first_attempt(GREEN, &mut requests);
        assert_eq!(requests.len(), 1);
    }

    #[test]
    fn passing_over_is_no_evidence_if_both_colors_failed() {
        let both = request(500, &[(GREEN, 500), (Color::Blue, 500)]);
        let alone = request(200, &[(GREEN, 500), (Color::Blue, 200)]);
        let by_standby = request(200, &[(Color::Blue, 200)]);
        // The standby failed too, so nginx asked the color after all.
        let asked_after_all = request(500, &[(Color::Blue, 500), (GREEN, 500)]);
        for (cause, excluded, passed_over) in [
            (&both, true, &by_standby),
            (&both, true, &asked_after_all),
            (&alone, false, &by_standby),
            (&alone, false, &asked_after_all),
        ] {
            let remaining = |causes: &mut Causes, mut requests: Vec<Request>, now| {
                causes.exclude_if_both_failed(GREEN, &mut requests, now);
                requests.len()
            };
            let kept = usize::from(!excluded);
            let mut causes = Causes::default();
            let log = vec![at(1.0, cause.clone()), at(2.0, passed_over.clone())];
            assert_eq!(remaining(&mut causes, log, 2.1), 1 + kept);
            // The cause was in an earlier part of the log.
            let log = vec![at(3.0, passed_over.clone())];
            assert_eq!(remaining(&mut causes, log, 3.1), kept);
            // The cause is in a later part of the log.
            let mut causes = Causes::default();
            let log = || vec![at(2.0, passed_over.clone())];
            assert_eq!(remaining(&mut causes, log(), 2.5), 0);
            let cause = vec![at(1.9, cause.clone())];
            assert_eq!(remaining(&mut causes, cause, 2.8), 1 + kept);
            // Without a cause the color is to blame for another reason.
            let mut causes = Causes::default();
            assert_eq!(remaining(&mut causes, log(), 2.5), 0);
            assert_eq!(remaining(&mut causes, Vec::new(), 3.6), 1);
        }
    }
}
