//! The gate `golden`: is the candidate right often enough, also compared with the active release?

use std::fmt::Write as _;

use async_trait::async_trait;

use crate::{
    config::GoldenSettings,
    evidence::{
        details::Evidence,
        statistics::{mcnemar, paired_difference},
        verdict::{Conclusion, Verdict},
    },
    examples::Example,
    gates::{
        gate::{Candidate, Gate},
        pairs::{Pair, errors_of, predict_pairs},
    },
};

/// Significance level of a drop.
const SIGNIFICANT: f64 = 0.01;
/// A candidate passes only if this many times the allowed drop can be ruled out.
const RULED_OUT: f64 = 3.0;
/// The smallest drop that a hand-labeled golden set can rule out.
const LEAST_ALLOWANCE: f64 = 0.03;

/// Compares the answers of both releases with known labels.
#[derive(Debug)]
pub struct Golden {
    settings: GoldenSettings,
}

impl Golden {
    /// Creates the gate with these limits.
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
        let pairs = predict_pairs(candidate, &labeled).await;
        if pairs.is_empty() {
            return Verdict::skipped("no input has a label (\"expect\")");
        }
        for pair in &pairs {
            if let Some(label) = pair.candidate_label() {
                candidate.golden_labels.record(&pair.example.body, label);
            }
        }
        let answered = |pair: &Pair<'_>| pair.candidate.is_ok() || pair.active.is_ok();
        let labeled = |pair: &Pair<'_>| pair.candidate_label().or(pair.active_label()).is_some();
        if pairs.iter().any(answered) && !pairs.iter().any(labeled) {
            return Verdict::skipped("no answer holds a label where probe.label says");
        }
        Counts::of(&pairs)
            .judge(&self.settings, candidate.nothing_to_compare)
            .with_evidence(Evidence {
                errors: errors_of(&pairs),
                ..Evidence::default()
            })
    }
}

/// How often each release was right.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    inputs: u64,
    right: u64,
    /// Inputs that the candidate did not answer. They count as wrong.
    failed: u64,
    /// Inputs that the active release answered with a label.
    paired: u64,
    active_right: u64,
    /// The active release was right and the candidate was wrong.
    lost: u64,
    /// The candidate was right and the active release was wrong.
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
            counts.failed += u64::from(pair.candidate.is_err());
            // An input that the active release does not answer cannot be compared.
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

    fn judge(self, settings: &GoldenSettings, nothing_to_compare: bool) -> Verdict {
        let Self {
            inputs,
            failed,
            paired,
            lost,
            won,
            ..
        } = self;
        let (conclusion, summary) = self.conclude(settings, nothing_to_compare);
        let verdict = Verdict::new(conclusion, summary)
            .with("inputs", inputs as f64)
            .with("failed", failed as f64)
            .with("accuracy", self.accuracy())
            .with("accuracy_minimum", settings.min_accuracy);
        if paired == 0 {
            return verdict;
        }
        let truth = paired_difference(lost, won, paired);
        verdict
            .with("active_accuracy", self.active_accuracy())
            .with("drop", self.drop())
            .with("drop_limit", settings.max_drop)
            .with("drop_low", truth.low)
            .with("drop_high", truth.high)
            .with("lost", lost as f64)
            .with("won", won as f64)
            .with("p_value", mcnemar(lost, won))
    }

    /// Returns the conclusion and the sentence that gives its reason.
    fn conclude(self, settings: &GoldenSettings, nothing_to_compare: bool) -> (Conclusion, String) {
        let Self {
            inputs,
            right,
            failed,
            paired,
            lost,
            won,
            ..
        } = self;
        let needed = settings.min_inputs as u64;
        let mut own = format!(
            "right on {right} of {inputs} inputs ({})",
            percent(self.accuracy())
        );
        if failed > 0 {
            let _ = write!(own, ", of which it did not answer {failed}");
        }
        let compared = if paired == 0 {
            "; the active release gave no label to compare with".to_owned()
        } else {
            format!(
                "; the active release {} ({lost} lost, {won} won)",
                percent(self.active_accuracy())
            )
        };
        if inputs < needed {
            (
                Conclusion::Inconclusive,
                format!("{own}; at least {needed} inputs are needed to judge"),
            )
        } else if self.accuracy() < settings.min_accuracy {
            let needed = percent(settings.min_accuracy);
            (
                Conclusion::Fail,
                format!("{own}, at least {needed} needed{compared}"),
            )
        } else if nothing_to_compare {
            (Conclusion::Pass, own)
        } else if paired < needed {
            (
                Conclusion::Inconclusive,
                format!(
                    "{own}{compared}; it gave {paired} labels, and at least {needed} are needed to compare"
                ),
            )
        } else {
            let (conclusion, reason) = self.judge_drop(settings.max_drop);
            (conclusion, format!("{own}{compared}{reason}"))
        }
    }

    fn accuracy(self) -> f64 {
        self.right as f64 / self.inputs as f64
    }

    fn active_accuracy(self) -> f64 {
        self.active_right as f64 / self.paired.max(1) as f64
    }

    /// How much lower the candidate's measured accuracy is.
    fn drop(self) -> f64 {
        (self.lost as f64 - self.won as f64) / self.paired.max(1) as f64
    }

    /// Judges the drop by its confidence interval: a drop that is certainly too large fails; one that cannot be
    /// far above the limit passes.
    fn judge_drop(self, allowed: f64) -> (Conclusion, String) {
        let Self {
            paired, lost, won, ..
        } = self;
        let (drop, truth) = (self.drop(), paired_difference(lost, won, paired));
        // McNemar's test is exact for few inputs, and then the stricter one.
        let chance = mcnemar(lost, won);
        let seen = format!(
            "; a drop of {} where {} is allowed",
            percent(drop),
            percent(allowed)
        );
        if truth.low > allowed && chance < SIGNIFICANT {
            let least = percent(truth.low);
            let reason = format!("{seen}; for 99 % certain of {least} or more (p = {chance:.4})");
            (Conclusion::Fail, reason)
        } else if drop > allowed {
            let reason =
                format!("{seen}, which may be chance (p = {chance:.2}): add inputs to decide");
            (Conclusion::Inconclusive, reason)
        } else if truth.high >= (RULED_OUT * allowed).max(LEAST_ALLOWANCE) {
            let most = percent(truth.high);
            let reason = format!("; a drop of {most} cannot be ruled out: add inputs to decide");
            (Conclusion::Inconclusive, reason)
        } else {
            (Conclusion::Pass, String::new())
        }
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> GoldenSettings {
        GoldenSettings {
            min_accuracy: 0.7,
            max_drop: 0.03,
            min_inputs: 50,
        }
    }

    fn judge(lost: u64, won: u64, both: u64, neither: u64) -> Verdict {
        let inputs = lost + won + both + neither;
        let counts = Counts {
            inputs,
            right: won + both,
            failed: 0,
            paired: inputs,
            active_right: lost + both,
            lost,
            won,
        };
        counts.judge(&settings(), false)
    }

    #[test]
    fn equal_accuracy_passes() {
        let verdict = judge(20, 21, 400, 39);
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert_eq!(
            verdict.summary,
            "right on 421 of 480 inputs (87.7 %); the active release 87.5 % (20 lost, 21 won)"
        );
    }

    #[test]
    fn certain_accuracy_drop_fails() {
        let verdict = judge(50, 10, 380, 40);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(
            verdict.summary.contains("a drop of 8.3 % where 3.0 %"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn accuracy_drop_within_chance_is_inconclusive() {
        assert_eq!(judge(41, 25, 375, 39).conclusion, Conclusion::Inconclusive);
    }

    #[test]
    fn certain_drop_within_tolerance_passes() {
        assert_eq!(judge(12, 0, 429, 39).conclusion, Conclusion::Pass);
    }

    #[test]
    fn accuracy_below_minimum_fails_even_if_active_is_no_better() {
        let verdict = judge(10, 12, 280, 178);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(
            verdict.summary.contains("at least 70.0 % needed"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn too_few_inputs_are_inconclusive() {
        assert_eq!(judge(0, 0, 49, 0).conclusion, Conclusion::Inconclusive);
        let verdict = judge(1, 1, 50, 0);
        assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
        assert!(
            verdict
                .summary
                .ends_with("cannot be ruled out: add inputs to decide"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn comparison_is_skipped_when_active_release_rarely_answers() {
        let counts = Counts {
            inputs: 480,
            right: 430,
            paired: 20,
            active_right: 10,
            won: 10,
            ..Counts::default()
        };
        assert_eq!(
            counts.judge(&settings(), false).conclusion,
            Conclusion::Inconclusive
        );
        assert_eq!(counts.judge(&settings(), true).conclusion, Conclusion::Pass);
    }

    #[test]
    fn unanswered_input_counts_as_wrong() {
        let counts = Counts {
            inputs: 480,
            failed: 480,
            ..Counts::default()
        };
        let verdict = counts.judge(&settings(), false);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(
            verdict.summary.contains("of which it did not answer 480"),
            "{}",
            verdict.summary
        );
    }

    /// Returns how many of 1,000 candidates pass on 480 inputs. A candidate wins a share `churn / 2` of the inputs,
    /// and loses a share `churn / 2 + drop`.
    fn count_passes(drop: f64, churn: f64) -> usize {
        let mut random = fastrand::Rng::with_seed(4);
        (0..1_000)
            .filter(|_| {
                let (mut lost, mut won, mut both) = (0, 0, 0);
                for _ in 0..480 {
                    match random.f64() {
                        draw if draw < drop + churn / 2.0 => lost += 1,
                        draw if draw < drop + churn => won += 1,
                        _ => both += 1,
                    }
                }
                judge(lost, won, both, 0).conclusion == Conclusion::Pass
            })
            .count()
    }

    /// The churn stops at 0.1: at 0.14 one equal candidate in 24 is inconclusive, and needs more inputs.
    #[test]
    fn golden_rarely_errs_on_equal_and_worse_releases() {
        for churn in [0.02, 0.05, 0.1] {
            let (equal, better) = (count_passes(0.0, churn), count_passes(-0.01, churn));
            assert!(
                equal >= 980,
                "{equal} of 1000 equal candidates pass at churn {churn}"
            );
            assert!(
                better >= 990,
                "{better} of 1000 better candidates pass at churn {churn}"
            );
            let worse = count_passes(RULED_OUT * settings().max_drop, churn);
            assert!(
                worse <= 10,
                "{worse} of 1000 worse candidates pass at churn {churn}"
            );
        }
    }
}
