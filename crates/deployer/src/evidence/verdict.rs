//! Verdicts of gates and of the bake, with the figures behind them.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::evidence::{details::Evidence, tally::Tally};

/// The conclusion of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conclusion {
    /// The requirement is met.
    Pass,
    /// The requirement is not met.
    Fail,
    /// Too little was seen to tell.
    Inconclusive,
    /// The gate could not run; the summary says why.
    Skipped,
}

impl Conclusion {
    /// The worse of two conclusions.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rank = |conclusion| match conclusion {
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

impl fmt::Display for Conclusion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
            Self::Skipped => "skipped",
        })
    }
}

/// A conclusion, a sentence for people, and the figures behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The conclusion.
    pub conclusion: Conclusion,
    /// Why, in one sentence.
    pub summary: String,
    /// The figures. Each name carries its unit.
    pub numbers: BTreeMap<&'static str, f64>,
    /// What a person should look at, although it does not decide. One sentence each.
    pub warnings: Vec<String>,
    /// What the figures were computed from.
    pub evidence: Evidence,
}

impl Verdict {
    /// Creates a verdict without figures.
    pub fn new(conclusion: Conclusion, summary: impl Into<String>) -> Self {
        Self {
            conclusion,
            summary: summary.into(),
            numbers: BTreeMap::new(),
            warnings: Vec::new(),
            evidence: Evidence::default(),
        }
    }

    /// Creates the verdict of a gate that could not run, for this reason.
    pub fn skipped(reason: impl Into<String>) -> Self {
        Self::new(Conclusion::Skipped, reason)
    }

    /// Judges an error rate: at most `max_error_rate` (0–1), with at least `min_requests`.
    #[must_use]
    pub fn of_error_rate(tally: Tally, max_error_rate: f64, min_requests: u64) -> Self {
        let Tally { requests, failed } = tally;
        let rate = tally.error_rate();
        let (percent, limit) = (rate * 100.0, max_error_rate * 100.0);
        let verdict = if requests < min_requests {
            Self::new(
                Conclusion::Inconclusive,
                format!(
                    "{failed} of {requests} requests failed; at least {min_requests} are needed to judge"
                ),
            )
        } else if rate > max_error_rate {
            Self::new(
                Conclusion::Fail,
                format!(
                    "{failed} of {requests} requests failed ({percent:.1} %, at most {limit:.1} % allowed)"
                ),
            )
        } else {
            Self::new(
                Conclusion::Pass,
                format!("{failed} of {requests} requests failed ({percent:.1} %)"),
            )
        };
        verdict
            .with("requests", requests as f64)
            .with("failed", failed as f64)
            .with("error_rate", rate)
            .with("error_rate_limit", max_error_rate)
    }

    /// Adds a figure.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: f64) -> Self {
        self.numbers.insert(name, value);
        self
    }

    /// Sets the details.
    #[must_use]
    pub fn with_evidence(mut self, evidence: Evidence) -> Self {
        self.evidence = evidence;
        self
    }

    /// Whether the candidate may continue: after a pass or a skipped gate.
    #[must_use]
    pub fn lets_through(&self) -> bool {
        match self.conclusion {
            Conclusion::Pass | Conclusion::Skipped => true,
            Conclusion::Fail | Conclusion::Inconclusive => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_tally() -> impl Strategy<Value = Tally> {
        (0_u64..10_000).prop_flat_map(|requests| {
            (0..=requests).prop_map(move |failed| Tally { requests, failed })
        })
    }

    proptest! {
        #[test]
        fn one_more_failure_never_turns_fail_into_pass(tally in any_tally(), limit in 0.0..1.0_f64) {
            prop_assume!(tally.requests >= 20);
            let mut worse = tally;
            worse.count(false);
            if Verdict::of_error_rate(tally, limit, 20).conclusion == Conclusion::Fail {
                prop_assert_eq!(Verdict::of_error_rate(worse, limit, 20).conclusion, Conclusion::Fail);
            }
        }

        #[test]
        fn stricter_limit_never_passes_more(
            tally in any_tally(), limit in 0.0..0.9_f64, looser_by in 0.0..0.1_f64,
        ) {
            if Verdict::of_error_rate(tally, limit + looser_by, 20).conclusion == Conclusion::Fail {
                prop_assert_eq!(Verdict::of_error_rate(tally, limit, 20).conclusion, Conclusion::Fail);
            }
        }

        #[test]
        fn too_few_requests_never_pass(tally in any_tally(), limit in 0.0..1.0_f64) {
            let verdict = Verdict::of_error_rate(tally, limit, tally.requests + 1);
            prop_assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
            prop_assert!(!verdict.lets_through());
        }

        #[test]
        fn flawless_release_passes(requests in 20_u64..10_000, limit in 0.0..1.0_f64) {
            let verdict = Verdict::of_error_rate(Tally { requests, failed: 0 }, limit, 20);
            prop_assert_eq!(verdict.conclusion, Conclusion::Pass);
        }
    }

    #[test]
    fn error_rate_at_limit_passes_and_above_fails() {
        let judge = |failed| {
            let tally = Tally {
                requests: 100,
                failed,
            };
            Verdict::of_error_rate(tally, 0.05, 20).conclusion
        };
        assert_eq!(judge(5), Conclusion::Pass);
        assert_eq!(judge(6), Conclusion::Fail);
    }

    #[test]
    fn verdict_contains_its_figures() {
        let tally = Tally {
            requests: 50,
            failed: 5,
        };
        let verdict = Verdict::of_error_rate(tally, 0.05, 20);
        assert_eq!(
            verdict.summary,
            "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)"
        );
        assert!((verdict.numbers["error_rate"] - 0.1).abs() < 1e-12);
    }
}
