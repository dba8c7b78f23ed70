//! The gate `smoke`: does the candidate answer test requests?

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::{
    config::SmokeSettings,
    evidence::{tally::Tally, verdict::Verdict},
    examples::Example,
    gates::gate::{Candidate, Gate},
    ports::Target,
};

/// Sends test requests directly to the candidate, a few at a time.
#[derive(Debug)]
pub struct Smoke {
    settings: SmokeSettings,
}

impl Smoke {
    /// Creates the gate with this number of requests and this allowed share of failures.
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
        let examples = candidate.examples.golden.iter().cycle();
        let examples: Vec<&Example> = examples.take(requests as usize).collect();
        let mut tally = Tally::default();
        let mut last_error = None;
        for few in examples.chunks(AT_A_TIME) {
            let answers = few
                .iter()
                .map(|example| candidate.ports.probe.predict(target, example));
            for answer in join_all(answers).await {
                tally.count(answer.is_ok());
                last_error = answer.err().or(last_error);
            }
        }
        let mut verdict = Verdict::of_error_rate(tally, max_error_rate, u64::from(requests));
        if let Some(error) = last_error {
            verdict.summary.push_str("; for example: ");
            verdict.summary.push_str(&error.to_string());
        }
        verdict
    }
}
