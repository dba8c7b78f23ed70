//! What the judge says before the end of a bake, and while a bake that passed waits for approval.

use std::time::Duration;

use super::{Bake, EXTENSIONS};
use crate::{
    bake::judge::{budget::ErrorBudget, error_rate::judge_errors},
    config::BakeSettings,
    evidence::verdict::{Conclusion, Verdict},
};

impl Bake {
    /// Also judges the candidate for up to `hold` after the end of the bake, while it waits for approval. More observations
    /// share the budget of errors.
    #[must_use]
    pub fn with_hold(mut self, hold: Duration) -> Self {
        let longest = self.settings.duration * (1 + EXTENSIONS) + hold;
        self.budget = ErrorBudget::new(&self.settings, &self.before, longest);
        self
    }

    /// Returns a verdict if the candidate certainly fails. Never passes it.
    pub fn failure(&mut self, elapsed: Duration) -> Option<Verdict> {
        let verdict = self.certain_failure(elapsed)?;
        Some(self.with_details(verdict))
    }

    /// Returns how many requests the last window lacks for a verdict. While the candidate waits for approval, own requests
    /// replace the traffic of a quiet service.
    #[must_use]
    pub fn missing_in_window(&self) -> usize {
        let BakeSettings {
            window,
            interval,
            min_requests,
            ..
        } = self.settings;
        let observations = window.as_millis() / interval.as_millis().max(1);
        let observations = u64::try_from(observations).unwrap_or(u64::MAX).max(1);
        let missing = min_requests.saturating_sub(self.in_last_window().requests);
        // Bounded, so that own requests are not a load.
        let most = 2 * min_requests.div_ceil(observations);
        usize::try_from(missing.min(most)).unwrap_or(usize::MAX)
    }

    /// Why a person must not end the bake now, if something is failing.
    #[must_use]
    pub fn failing_now(&self) -> Option<String> {
        if self.observations == 0 {
            return Some("the candidate was not observed yet".to_owned());
        }
        if let Some(failure) = self.trouble() {
            return Some(failure.to_owned());
        }
        if self.is_asking_previous() {
            return Some("more requests are refused, given up, or slow than before the switch, and the previous release is asked whether it does better".to_owned());
        }
        let limit = self.settings.max_error_rate;
        [self.traffic.tally, self.in_last_window()]
            .into_iter()
            .map(|tally| Verdict::of_error_rate(tally, limit, 1))
            .find(|verdict| verdict.conclusion == Conclusion::Fail)
            .map(|verdict| verdict.summary)
    }

    /// The verdict of a bake that a person ends. It may be inconclusive.
    #[must_use]
    pub fn verdict_so_far(&self) -> Verdict {
        let verdict = judge_errors(&self.settings, self.traffic.tally, self.budget.z());
        self.with_details(verdict)
    }
}
