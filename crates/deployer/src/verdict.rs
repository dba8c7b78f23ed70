//! What a gate or the watch concluded, with the numbers that it concluded from.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::evidence::Evidence;

/// The four things that a judgment can come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// What was asked for was seen.
    Pass,
    /// Its opposite was seen.
    Fail,
    /// Too little was seen to say.
    Inconclusive,
    /// It could not be asked: the summary says why.
    Skipped,
}

impl Finding {
    /// What two findings come to: the worse one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rank = |finding| match finding {
            Self::Skipped => 0,
            Self::Pass => 1,
            Self::Inconclusive => 2,
            Self::Fail => 3,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Skipped => "skipped",
        })
    }
}

/// A finding, a sentence for people, and the numbers behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// What was concluded.
    pub finding: Finding,
    /// Why, in one sentence.
    pub summary: String,
    /// The figures; the name carries the unit.
    pub numbers: BTreeMap<&'static str, f64>,
    /// What a person should look at though it stops nothing, a sentence each.
    pub warnings: Vec<String>,
    /// What the figures were taken from.
    pub evidence: Evidence,
}

impl Verdict {
    /// A verdict without numbers.
    pub fn new(finding: Finding, summary: impl Into<String>) -> Self {
        Self {
            finding,
            summary: summary.into(),
            numbers: BTreeMap::new(),
            warnings: Vec::new(),
            evidence: Evidence::default(),
        }
    }

    /// A verdict that the question could not be asked, for this reason.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Finding::Skipped, reason)
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: f64) -> Self {
        self.numbers.insert(name, value);
        self
    }

    /// Keeps what it rests on.
    #[must_use]
    pub fn resting_on(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }

    /// Whether the candidate may go on: a skipped question stops nobody, an open one does.
    #[must_use]
    pub fn lets_through(&self) -> bool {
        match self.finding {
            Finding::Pass | Finding::Skipped => true,
            Finding::Fail | Finding::Inconclusive => false,
        }
    }
}

/// How many requests were seen and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Requests in all.
    pub requests: u64,
    /// Those that failed; never more than `requests`.
    pub failed: u64,
}

impl Tally {
    /// Counts one request.
    pub fn count(&mut self, succeeded: bool) {
        self.requests += 1;
        self.failed += u64::from(!succeeded);
    }

    /// Adds another tally.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
    }

    /// Failed of all, in 0–1; 0 when there were none.
    #[must_use]
    pub fn error_rate(self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.failed as f64 / self.requests as f64
        }
    }

    /// Judges the error rate: at most `max_error_rate` (0–1) of at least `min_requests`.
    #[must_use]
    pub fn judge(self, max_error_rate: f64, min_requests: u64) -> Verdict {
        let Self { requests, failed } = self;
        let rate = self.error_rate();
        let (percent, limit) = (rate * 100.0, max_error_rate * 100.0);
        let verdict = if requests < min_requests {
            Verdict::new(
                Finding::Inconclusive,
                format!(
                    "{failed} of {requests} requests failed; at least {min_requests} are needed to judge"
                ),
            )
        } else if rate > max_error_rate {
            Verdict::new(
                Finding::Fail,
                format!(
                    "{failed} of {requests} requests failed ({percent:.1} %, at most {limit:.1} % allowed)"
                ),
            )
        } else {
            Verdict::new(
                Finding::Pass,
                format!("{failed} of {requests} requests failed ({percent:.1} %)"),
            )
        };
        verdict
            .with("requests", requests as f64)
            .with("failed", failed as f64)
            .with("error_rate", rate)
    }
}

impl Extend<bool> for Tally {
    fn extend<I: IntoIterator<Item = bool>>(&mut self, successes: I) {
        for succeeded in successes {
            self.count(succeeded);
        }
    }
}

impl FromIterator<bool> for Tally {
    /// Counts requests by whether they succeeded.
    fn from_iter<I: IntoIterator<Item = bool>>(successes: I) -> Self {
        let mut tally = Self::default();
        tally.extend(successes);
        tally
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tally() -> impl Strategy<Value = Tally> {
        (0_u64..10_000).prop_flat_map(|requests| {
            (0..=requests).prop_map(move |failed| Tally { requests, failed })
        })
    }

    proptest! {
        #[test]
        fn one_more_failure_never_turns_a_fail_into_a_pass(seen in tally(), limit in 0.0..1.0_f64) {
            prop_assume!(seen.requests >= 20);
            let mut worse = seen;
            worse.count(false);
            if seen.judge(limit, 20).finding == Finding::Fail {
                prop_assert_eq!(worse.judge(limit, 20).finding, Finding::Fail);
            }
        }

        #[test]
        fn a_stricter_limit_never_passes_what_a_looser_one_fails(
            seen in tally(), limit in 0.0..0.9_f64, looser_by in 0.0..0.1_f64,
        ) {
            if seen.judge(limit + looser_by, 20).finding == Finding::Fail {
                prop_assert_eq!(seen.judge(limit, 20).finding, Finding::Fail);
            }
        }

        #[test]
        fn too_few_requests_are_never_good_news(seen in tally(), limit in 0.0..1.0_f64) {
            let verdict = seen.judge(limit, seen.requests + 1);
            prop_assert_eq!(verdict.finding, Finding::Inconclusive);
            prop_assert!(!verdict.lets_through());
        }

        #[test]
        fn a_flawless_release_passes(requests in 20_u64..10_000, limit in 0.0..1.0_f64) {
            let verdict = Tally { requests, failed: 0 }.judge(limit, 20);
            prop_assert_eq!(verdict.finding, Finding::Pass);
        }
    }

    #[test]
    fn five_percent_passes_and_more_fails() {
        let judge = |failed| {
            Tally {
                requests: 100,
                failed,
            }
            .judge(0.05, 20)
            .finding
        };
        assert_eq!(judge(5), Finding::Pass);
        assert_eq!(judge(6), Finding::Fail);
    }

    #[test]
    fn the_verdict_carries_its_numbers() {
        let verdict = Tally {
            requests: 50,
            failed: 5,
        }
        .judge(0.05, 20);
        assert_eq!(
            verdict.summary,
            "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)"
        );
        assert!((verdict.numbers["error_rate"] - 0.1).abs() < 1e-12);
    }
}
