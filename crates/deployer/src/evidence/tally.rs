//! A count of requests and failures.

use std::iter::Sum;

use serde::Serialize;

/// A number of requests, and failures among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// All requests.
    pub requests: u64,
    /// Failed requests; at most `requests`.
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

    /// The share of failures, 0–1; 0 without requests.
    #[must_use]
    pub fn error_rate(self) -> f64 {
        if self.requests == 0 {
            0.0
        } else {
            self.failed as f64 / self.requests as f64
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        let mut sum = Self::default();
        for tally in tallies {
            sum.add(tally);
        }
        sum
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
    /// Counts requests by their success.
    fn from_iter<I: IntoIterator<Item = bool>>(successes: I) -> Self {
        let mut tally = Self::default();
        tally.extend(successes);
        tally
    }
}
