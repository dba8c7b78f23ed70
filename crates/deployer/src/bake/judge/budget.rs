//! One budget of errors for all tests of a bake.

use std::time::Duration;

use crate::{
    config::BakeSettings,
    evidence::{sample::TrafficSample, statistics::z_of_budget},
};

/// The probability that a whole bake, with all its tests at all its observations, fails a release that keeps all limits.
const BUDGET: f64 = 0.01;

/// The share of the budget that one test has.
#[derive(Debug, Clone, Copy)]
pub(super) struct ErrorBudget {
    tests: u64,
    z: f64,
}

impl ErrorBudget {
    /// Divides the budget by the most tests that a bake can make that lasts at most `longest`.
    pub(super) fn new(settings: &BakeSettings, before: &TrafficSample, longest: Duration) -> Self {
        /// Error rates by four readings, hanging requests by two, latencies, and labels.
        const TESTS: u64 = 8;
        /// Failures, and about eight other endings, since the switch and over the last window.
        const TESTS_ON_ROUTE: u64 = 18;

        let observations = longest.as_millis() / settings.interval.as_millis().max(1) + 1;
        let observations = u64::try_from(observations).unwrap_or(u64::MAX);
        let routes = before.endings.answered_routes().count().max(1) as u64;
        let tests = observations.saturating_mul(TESTS + TESTS_ON_ROUTE * routes);
        Self {
            tests,
            z: z_of_budget(BUDGET, tests),
        }
    }

    /// The standard normal quantile of one one-sided test.
    pub(super) fn z(self) -> f64 {
        self.z
    }

    /// The probability (0–1) with which one test may be wrong.
    pub(super) fn of_one_test(self) -> f64 {
        BUDGET / self.tests as f64
    }
}
