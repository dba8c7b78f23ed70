//! Requests that passed a color over, because nginx remembers that it failed.
//!
//! nginx remembers that a color failed, whatever it runs now: it passes the color over for up to two seconds, tries it
//! with one request, and passes it over until that request is answered.

use std::collections::VecDeque;

use crate::{
    color::Color,
    evidence::request::{Ending, Request},
};

/// Finds the point in the log from which it is evidence about a release that has just received traffic.
#[derive(Debug, Default)]
pub struct FirstAttempt {
    /// When the first request that tried the color ended, in seconds since 1970.
    ended: Option<f64>,
}

impl FirstAttempt {
    /// Removes requests that passed `color` over because of the release before.
    pub fn exclude_before_first_attempt(&mut self, color: Color, requests: &mut Vec<Request>) {
        let tries = requests.iter().filter(|request| request.tried(color));
        let ends = tries.map(|request| request.at);
        // The workers of nginx write their lines in any order.
        self.ended = ends.chain(self.ended).reduce(f64::min);
        let speaks = |request: &Request| self.ended.is_some_and(|ended| request.began() >= ended);
        requests.retain(|request| !request.passed_over(color) || speaks(request));
    }
}

/// Tells whether the color itself, or requests that fail on both colors, made nginx pass it over.
#[derive(Debug, Default)]
pub struct Causes {
    /// When a request failed, in seconds since 1970, and whether it failed on both colors.
    failures: VecDeque<(f64, bool)>,
}

impl Causes {
    /// nginx remembers failures for up to two seconds. The workers write their lines up to half a second late.
    const REMEMBERED: f64 = 3.0;

    /// Removes requests that passed `color` over because more requests failed on both colors than on `color` alone.
    pub fn exclude_if_both_failed(&mut self, color: Color, requests: &mut Vec<Request>) {
        let failures = requests.iter().filter_map(|request| {
            let ending = request.ending_for(color).filter(|_| request.tried(color))?;
            match ending {
                Ending::BothFailed => Some((request.at, true)),
                Ending::Failed | Ending::Cut => Some((request.at, false)),
                _ => None,
            }
        });
        self.failures.extend(failures);
        let newest = requests.iter().map(|request| request.at);
        let newest = newest.fold(f64::NEG_INFINITY, f64::max);
        requests.retain(|request| !request.passed_over(color) || self.color_is_to_blame(request));
        self.failures
            .retain(|(at, _)| *at >= newest - 2.0 * Self::REMEMBERED);
    }

    fn color_is_to_blame(&self, request: &Request) -> bool {
        let remembered = request.began() - Self::REMEMBERED..=request.at;
        let causes = self.failures.iter().copied();
        let causes = causes.filter(|(at, _)| remembered.contains(at));
        let (both, alone): (Vec<_>, Vec<_>) = causes.partition(|(_, both)| *both);
        both.len() <= alone.len()
    }
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
            // The request that ended at 2.05 s began during the first attempt, so it is excluded.
            let later = vec![
                at(2.05, passed_over()),
                at(2.0, attempt),
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
        let passed_over = request(200, &[(Color::Blue, 200)]);
        for (cause, excluded) in [(&both, true), (&alone, false)] {
            let mut causes = Causes::default();
            let mut requests = vec![at(1.0, cause.clone()), at(2.0, passed_over.clone())];
            causes.exclude_if_both_failed(GREEN, &mut requests);
            assert_eq!(requests.len(), if excluded { 1 } else { 2 });
            // The cause was in an earlier part of the log.
            let mut later = vec![at(3.0, passed_over.clone())];
            causes.exclude_if_both_failed(GREEN, &mut later);
            assert_eq!(later.is_empty(), excluded);
            // nginx has forgotten it.
            let mut later = vec![at(9.0, passed_over.clone())];
            causes.exclude_if_both_failed(GREEN, &mut later);
            assert_eq!(later.len(), 1);
        }
    }
}
