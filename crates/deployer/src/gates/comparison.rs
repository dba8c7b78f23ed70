//! The gate `comparison`: is the candidate as fast as the active release?

mod assessment;

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    config::ComparisonSettings,
    evidence::verdict::{Conclusion, Verdict},
    examples::Example,
    gates::{
        comparison::assessment::{ENOUGH_FOR_P50, ENOUGH_FOR_P99, Samples, assess},
        gate::{Candidate, Gate},
    },
    ports::{PortError, Prediction, Target},
};

/// More pairs add little.
const MAX_PAIRS: usize = 4_000;

/// The gate continues for this many times `comparison.duration` while it is inconclusive or lacks pairs for
/// p99.
const PATIENCE: u32 = 3;

/// Sends pairs of requests, one to each release, one at a time.
#[derive(Debug)]
pub struct Comparison {
    settings: ComparisonSettings,
    timeout: Duration,
}

impl Comparison {
    /// Creates the gate with these limits. A request that takes longer than `timeout` has failed.
    #[must_use]
    pub fn new(settings: ComparisonSettings, timeout: Duration) -> Self {
        Self { settings, timeout }
    }
}

#[async_trait]
impl Gate for Comparison {
    fn name(&self) -> &'static str {
        "comparison"
    }

    fn needs_active(&self) -> bool {
        true
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let began = Instant::now();
        let mut samples = Samples::default();
        let mut deadline = self.settings.duration;
        // The first verdict comes when p50 can be compared, each later one after twice as many pairs.
        let mut next_verdict = ENOUGH_FOR_P50;
        for (number, example) in candidate.examples.golden.iter().cycle().enumerate() {
            let [active, idle] = ask_in_turn(candidate, example, number).await;
            samples.add(&active, &idle, self.timeout);
            let pairs = samples.active.len();
            let over = began.elapsed() >= deadline || pairs >= MAX_PAIRS;
            if !over && pairs < next_verdict {
                continue;
            }
            let verdict = assess(&self.settings, &samples);
            let few = pairs < ENOUGH_FOR_P99;
            if over {
                let open = verdict.conclusion == Conclusion::Inconclusive || few;
                if open && pairs < MAX_PAIRS && deadline == self.settings.duration {
                    deadline *= PATIENCE;
                    continue;
                }
                return verdict;
            }
            // A pass is final after p99 was compared. Until then more pairs may come.
            if verdict.conclusion == Conclusion::Fail
                || verdict.conclusion == Conclusion::Pass && !few
            {
                return verdict;
            }
            let twice = next_verdict * 2;
            next_verdict = if few && twice > ENOUGH_FOR_P99 {
                ENOUGH_FOR_P99
            } else {
                twice
            };
        }
        Verdict::skipped("there are no inputs to send")
    }
}

/// Sends the active release's request first in every other pair, so that no release always finds the machine as
/// the other left it.
async fn ask_in_turn(
    candidate: &Candidate<'_>,
    example: &Example,
    number: usize,
) -> [Result<Prediction, PortError>; 2] {
    let probe = &candidate.ports.probe;
    let ask = |color| probe.predict(Target::Server(color), example);
    let (active, idle) = (candidate.color.other(), candidate.color);
    if number.is_multiple_of(2) {
        let active = ask(active).await;
        [active, ask(idle).await]
    } else {
        let idle = ask(idle).await;
        [ask(active).await, idle]
    }
}
