//! Does the candidate answer test requests?

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

use super::{Candidate, Gate};
use crate::{
    config::SmokeSettings,
    ports::Target,
    verdict::{Tally, Verdict},
};

/// Sends test requests, a few at a time, straight to the candidate.
#[derive(Debug)]
pub struct Smoke {
    settings: SmokeSettings,
}

impl Smoke {
    /// So many requests, of which at most such a share may fail.
    #[must_use]
    pub fn new(settings: SmokeSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Gate for Smoke {
    fn name(&self) -> &'static str {
        "smoke"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        const AT_A_TIME: usize = 8;

        let SmokeSettings {
            requests,
            max_error_rate,
        } = self.settings;
        let target = Target::Server(candidate.color);
        let mut answers = stream::iter(0..requests as usize)
            .map(|number| candidate.world.probe.predict(target, number))
            .buffer_unordered(AT_A_TIME);
        let mut tally = Tally::default();
        let mut last_error = None;
        while let Some(answer) = answers.next().await {
            tally.count(answer.is_ok());
            last_error = answer.err().or(last_error);
        }
        let mut verdict = tally.judge(max_error_rate, u64::from(requests));
        if let Some(error) = last_error {
            verdict.summary.push_str("; for example: ");
            verdict.summary.push_str(&error.to_string());
        }
        verdict
    }
}
