//! Is the candidate right as often as it must be, and as the active release?

use async_trait::async_trait;

use super::{
    Candidate, Gate,
    ask::{Pair, ask_both},
};
use crate::{
    config::GoldenSettings,
    examples::Example,
    statistics::mcnemar,
    verdict::{Finding, Verdict},
};

/// A drop that chance alone would bring about more often than this is not held against anybody.
const SIGNIFICANT: f64 = 0.01;

/// Asks both releases for labels that are known.
#[derive(Debug)]
pub struct Golden {
    settings: GoldenSettings,
}

impl Golden {
    /// With these limits.
    #[must_use]
    pub fn new(settings: GoldenSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Gate for Golden {
    fn name(&self) -> &'static str {
        "golden"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let mut labeled: Vec<&Example> = candidate.examples.golden.iter().collect();
        labeled.retain(|example| example.expect.is_some());
        let pairs = ask_both(candidate, &labeled).await;
        if pairs.is_empty() {
            return Verdict::skipped("no input has a label (\"expect\")");
        }
        if pairs
            .iter()
            .all(|pair| pair.candidate_label().or(pair.active_label()).is_none())
        {
            return Verdict::skipped("no answer holds a label where probe.label says");
        }
        Counts::of(&pairs).judge(&self.settings)
    }
}

/// How often who was right.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    inputs: u64,
    right: u64,
    /// Inputs to which the active release gave a label.
    paired: u64,
    active_right: u64,
    /// The active release was right and the candidate is not.
    lost: u64,
    /// The candidate is right and the active release was not.
    won: u64,
}

impl Counts {
    fn of(pairs: &[Pair<'_>]) -> Self {
        let mut counts = Self::default();
        for pair in pairs {
            let expect = pair.example.expect.as_deref();
            let right = pair.candidate_label() == expect;
            counts.inputs += 1;
            counts.right += u64::from(right);
            // An input on which the active release cannot be asked compares nobody.
            let Some(active) = pair.active_label() else {
                continue;
            };
            let active_right = Some(active) == expect;
            counts.paired += 1;
            counts.active_right += u64::from(active_right);
            counts.lost += u64::from(active_right && !right);
            counts.won += u64::from(right && !active_right);
        }
        counts
    }

    fn judge(self, settings: &GoldenSettings) -> Verdict {
        let Self {
            inputs,
            right,
            paired,
            active_right,
            lost,
            won,
        } = self;
        let accuracy = right as f64 / inputs as f64;
        let active = active_right as f64 / paired.max(1) as f64;
        let drop = (lost as f64 - won as f64) / paired.max(1) as f64;
        let chance = mcnemar(lost, won);
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let it_is = format!(
            "right on {right} of {inputs} inputs ({})",
            percent(accuracy)
        );
        let beside = if paired == 0 {
            "; the active release gave no label to compare with".to_owned()
        } else {
            format!(
                "; the active release {} ({lost} lost, {won} won)",
                percent(active)
            )
        };
        let (finding, summary) = if inputs < settings.min_inputs as u64 {
            let needed = settings.min_inputs;
            (
                Finding::Inconclusive,
                format!("{it_is}; at least {needed} inputs are needed to judge"),
            )
        } else if accuracy < settings.min_accuracy {
            let needed = percent(settings.min_accuracy);
            (
                Finding::Fail,
                format!("{it_is}, at least {needed} needed{beside}"),
            )
        } else if drop <= settings.max_drop {
            (Finding::Pass, format!("{it_is}{beside}"))
        } else {
            let allowed = percent(settings.max_drop);
            let worse = format!(
                "{it_is}{beside}; a drop of {} where {allowed} is allowed",
                percent(drop)
            );
            if chance < SIGNIFICANT {
                (Finding::Fail, format!("{worse} (p = {chance:.4})"))
            } else {
                (
                    Finding::Inconclusive,
                    format!(
                        "{worse}, which may be chance (p = {chance:.2}): more inputs would tell"
                    ),
                )
            }
        };
        let verdict = Verdict::new(finding, summary)
            .with("inputs", inputs as f64)
            .with("accuracy", accuracy);
        if paired == 0 {
            return verdict;
        }
        verdict
            .with("active_accuracy", active)
            .with("drop", drop)
            .with("lost", lost as f64)
            .with("won", won as f64)
            .with("p_value", chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(lost: u64, won: u64, both: u64, neither: u64) -> Verdict {
        let settings = GoldenSettings {
            min_accuracy: 0.7,
            max_drop: 0.02,
            min_inputs: 50,
        };
        let inputs = lost + won + both + neither;
        let counts = Counts {
            inputs,
            right: won + both,
            paired: inputs,
            active_right: lost + both,
            lost,
            won,
        };
        counts.judge(&settings)
    }

    #[test]
    fn as_right_as_the_active_release_passes() {
        let verdict = judge(20, 21, 400, 39);
        assert_eq!(verdict.finding, Finding::Pass);
        assert_eq!(
            verdict.summary,
            "right on 421 of 480 inputs (87.7 %); the active release 87.5 % (20 lost, 21 won)"
        );
    }

    #[test]
    fn a_drop_that_is_no_chance_fails() {
        let verdict = judge(40, 10, 390, 40);
        assert_eq!(verdict.finding, Finding::Fail);
        assert!(
            verdict.summary.contains("a drop of 6.2 % where 2.0 %"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn a_drop_that_may_be_chance_is_left_open() {
        assert_eq!(judge(36, 25, 380, 39).finding, Finding::Inconclusive);
    }

    #[test]
    fn a_drop_within_the_tolerance_passes_however_certain_it_is() {
        assert_eq!(judge(9, 0, 432, 39).finding, Finding::Pass);
    }

    #[test]
    fn too_few_right_answers_fail_though_the_active_release_is_no_better() {
        let verdict = judge(10, 12, 280, 178);
        assert_eq!(verdict.finding, Finding::Fail);
        assert!(
            verdict.summary.contains("at least 70.0 % needed"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn a_handful_of_inputs_says_nothing() {
        assert_eq!(judge(0, 0, 49, 0).finding, Finding::Inconclusive);
    }

    /// 100 candidates as good as the active one, and 100 that lost a tenth of their accuracy.
    #[test]
    fn noise_refuses_no_equal_and_passes_no_worse_release() {
        let mut lots = fastrand::Rng::with_seed(4);
        let mut count = |accuracy: f64, finding: Finding| {
            (0..100)
                .filter(|_| {
                    let (mut lost, mut won, mut both, mut neither) = (0, 0, 0, 0);
                    for _ in 0..480 {
                        // Two models of the same kind err mostly on the same inputs.
                        let hard = lots.f64() < 0.3;
                        let active = !hard || lots.f64() < 0.6;
                        let own = if hard { 0.6 } else { 1.0 } - (0.88 - accuracy);
                        match (active, lots.f64() < own) {
                            (true, false) => lost += 1,
                            (false, true) => won += 1,
                            (true, true) => both += 1,
                            (false, false) => neither += 1,
                        }
                    }
                    judge(lost, won, both, neither).finding == finding
                })
                .count()
        };
        assert!(count(0.88, Finding::Fail) <= 1);
        assert!(count(0.78, Finding::Pass) <= 1);
    }
}
