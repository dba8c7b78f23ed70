//! Judges an error rate, and says how many requests that needs.

use std::fmt::Write as _;

use crate::{
    config::BakeSettings,
    evidence::{
        statistics::{Z_99, requests_to_pass, wilson},
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
};

/// A release passes only if this many times the allowed error rate can be ruled out.
const RULED_OUT: f64 = 3.0;

/// Judges an error rate by its Wilson interval: fails if the interval with the normal quantile `z` lies above the limit;
/// passes if the rate is within the limit and the interval (99 %) rules out [`RULED_OUT`] times the limit.
pub(super) fn judge_errors(settings: &BakeSettings, tally: Tally, z: f64) -> Verdict {
    let (limit, min_requests) = (settings.max_error_rate, settings.min_requests);
    let mut verdict = Verdict::of_error_rate(tally, limit, min_requests);
    if tally.requests < min_requests {
        return verdict;
    }
    let truth = wilson(tally, Z_99);
    let ruled_out = truth.high < RULED_OUT * limit || tally.failed == 0 && limit <= 0.0;
    if wilson(tally, z).low > limit {
        verdict.conclusion = Conclusion::Fail;
        verdict.summary.push_str(" (bake.max_error_rate)");
    } else if verdict.conclusion == Conclusion::Pass && !ruled_out {
        verdict.conclusion = Conclusion::Inconclusive;
        let _ = write!(
            verdict.summary,
            ", too few to rule out {:.1} %",
            RULED_OUT * limit * 100.0
        );
    } else if verdict.conclusion == Conclusion::Fail {
        verdict.conclusion = Conclusion::Inconclusive;
        verdict.summary.push_str(", which may be chance");
    }
    verdict
        .with("error_rate_low", truth.low)
        .with("error_rate_high", truth.high)
}

/// Returns how many requests are needed so that a release with half the allowed error rate is promoted in 99 of
/// 100 cases.
pub(super) fn needed_requests(settings: &BakeSettings) -> u64 {
    let (limit, least) = (settings.max_error_rate, settings.min_requests);
    // If no failure is allowed, no number of requests rules out failures.
    if limit <= 0.0 {
        return least;
    }
    requests_to_pass(least, limit / 2.0, |tally| {
        tally.error_rate() <= limit && wilson(tally, Z_99).high < RULED_OUT * limit
    })
}
