//! Is the candidate right as often as it must be, and as the active release?

use std::fmt::Write as _;

use async_trait::async_trait;

use super::{
    Candidate, Gate,
    ask::{Pair, ask_both, errors_of},
};
use crate::{
    config::GoldenSettings,
    evidence::Evidence,
    examples::Example,
    statistics::{mcnemar, paired_difference},
    verdict::{Finding, Verdict},
};

/// A drop that chance alone would bring about more often than this is not held against anybody.
const SIGNIFICANT: f64 = 0.01;
/// A candidate passes only when a drop of so many times the allowed one can be ruled out.
const RULED_OUT: f64 = 3.0;
/// Less than this is ruled out by no golden set that people label.
const LEAST: f64 = 0.03;

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
        let answered = |pair: &Pair<'_>| pair.candidate.is_ok() || pair.active.is_ok();
        let labeled = |pair: &Pair<'_>| pair.candidate_label().or(pair.active_label()).is_some();
        if pairs.iter().any(answered) && !pairs.iter().any(labeled) {
            return Verdict::skipped("no answer holds a label where probe.label says");
        }
        Counts::of(&pairs)
            .judge(&self.settings, candidate.active_down)
            .resting_on(Evidence {
                errors: errors_of(&pairs),
                ..Evidence::default()
            })
    }
}

/// How often who was right.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    inputs: u64,
    right: u64,
    /// Inputs that the candidate did not answer: wrong, whatever it would have said.
    failed: u64,
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
            counts.failed += u64::from(pair.candidate.is_err());
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

    fn judge(self, settings: &GoldenSettings, active_down: bool) -> Verdict {
        let Self {
            inputs,
            right,
            failed,
            paired,
            active_right,
            lost,
            won,
        } = self;
        let needed = settings.min_inputs as u64;
        let accuracy = right as f64 / inputs as f64;
        let active = active_right as f64 / paired.max(1) as f64;
        let mut it_is = format!(
            "right on {right} of {inputs} inputs ({})",
            percent(accuracy)
        );
        if failed > 0 {
            let _ = write!(it_is, ", of which it did not answer {failed}");
        }
        let beside = if paired == 0 {
            "; the active release gave no label to compare with".to_owned()
        } else {
            format!(
                "; the active release {} ({lost} lost, {won} won)",
                percent(active)
            )
        };
        let (finding, summary) = if inputs < needed {
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
        } else if active_down {
            (Finding::Pass, it_is)
        } else if paired < needed {
            (
                Finding::Inconclusive,
                format!(
                    "{it_is}{beside}; it gave {paired} labels, and at least {needed} are needed to compare"
                ),
            )
        } else {
            let (finding, why) = self.beside_the_active_release(settings.max_drop);
            (finding, format!("{it_is}{beside}{why}"))
        };
        let verdict = Verdict::new(finding, summary)
            .with("inputs", inputs as f64)
            .with("failed", failed as f64)
            .with("accuracy", accuracy);
        if paired == 0 {
            return verdict;
        }
        let truth = paired_difference(lost, won, paired);
        verdict
            .with("active_accuracy", active)
            .with("drop", self.drop())
            .with("drop_low", truth.low)
            .with("drop_high", truth.high)
            .with("lost", lost as f64)
            .with("won", won as f64)
            .with("p_value", mcnemar(lost, won))
    }

    /// By how much the candidate's share is lower, as seen.
    fn drop(self) -> f64 {
        (self.lost as f64 - self.won as f64) / self.paired.max(1) as f64
    }

    /// By what the drop may be in truth: it is too great when that is certain, and small enough when it
    /// cannot be far above what is allowed.
    fn beside_the_active_release(self, allowed: f64) -> (Finding, String) {
        let Self {
            paired, lost, won, ..
        } = self;
        let (drop, truth) = (self.drop(), paired_difference(lost, won, paired));
        // Exact where there are few, and then the stricter of the two.
        let chance = mcnemar(lost, won);
        let seen = format!(
            "; a drop of {} where {} is allowed",
            percent(drop),
            percent(allowed)
        );
        if truth.low > allowed && chance < SIGNIFICANT {
            let least = percent(truth.low);
            let why = format!("{seen}; for 99 % certain of {least} or more (p = {chance:.4})");
            (Finding::Fail, why)
        } else if drop > allowed {
            let why =
                format!("{seen}, which may be chance (p = {chance:.2}): more inputs would tell");
            (Finding::Inconclusive, why)
        } else if truth.high >= (RULED_OUT * allowed).max(LEAST) {
            let most = percent(truth.high);
            let why = format!("; a drop of {most} cannot be ruled out: more inputs would tell");
            (Finding::Inconclusive, why)
        } else {
            (Finding::Pass, String::new())
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
    fn as_right_as_the_active_release_passes() {
        let verdict = judge(20, 21, 400, 39);
        assert_eq!(verdict.finding, Finding::Pass);
        assert_eq!(
            verdict.summary,
            "right on 421 of 480 inputs (87.7 %); the active release 87.5 % (20 lost, 21 won)"
        );
    }

    #[test]
    fn a_drop_that_is_certain_fails() {
        let verdict = judge(50, 10, 380, 40);
        assert_eq!(verdict.finding, Finding::Fail);
        assert!(
            verdict.summary.contains("a drop of 8.3 % where 3.0 %"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn a_drop_that_may_be_chance_is_left_open() {
        assert_eq!(judge(41, 25, 375, 39).finding, Finding::Inconclusive);
    }

    #[test]
    fn a_drop_within_the_tolerance_passes_however_certain_it_is() {
        assert_eq!(judge(12, 0, 429, 39).finding, Finding::Pass);
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
        let verdict = judge(1, 1, 50, 0);
        assert_eq!(verdict.finding, Finding::Inconclusive);
        assert!(
            verdict
                .summary
                .ends_with("cannot be ruled out: more inputs would tell"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn an_active_release_that_hardly_answers_compares_nobody() {
        let counts = Counts {
            inputs: 480,
            right: 430,
            paired: 20,
            active_right: 10,
            won: 10,
            ..Counts::default()
        };
        assert_eq!(
            counts.judge(&settings(), false).finding,
            Finding::Inconclusive
        );
        assert_eq!(counts.judge(&settings(), true).finding, Finding::Pass);
    }

    #[test]
    fn what_is_not_answered_is_wrong() {
        let counts = Counts {
            inputs: 480,
            failed: 480,
            ..Counts::default()
        };
        let verdict = counts.judge(&settings(), false);
        assert_eq!(verdict.finding, Finding::Fail);
        assert!(
            verdict.summary.contains("of which it did not answer 480"),
            "{}",
            verdict.summary
        );
    }

    /// Verdicts on 1,000 candidates whose true share is so much lower than the active release's, on 480
    /// inputs; the two are right where the other is not on `churn` of them, beside that.
    fn passed(drop: f64, churn: f64) -> usize {
        let mut lots = fastrand::Rng::with_seed(4);
        (0..1_000)
            .filter(|_| {
                let (mut lost, mut won, mut both) = (0, 0, 0);
                for _ in 0..480 {
                    match lots.f64() {
                        at if at < drop + churn / 2.0 => lost += 1,
                        at if at < drop + churn => won += 1,
                        _ => both += 1,
                    }
                }
                judge(lost, won, both, 0).finding == Finding::Pass
            })
            .count()
    }

    /// At a churn of 14 of 100 inputs, one equal release in 24 would be left open: more inputs would tell.
    #[test]
    fn noise_blocks_no_equal_and_passes_no_clearly_worse_release() {
        for churn in [0.02, 0.05, 0.1] {
            let (equal, better) = (passed(0.0, churn), passed(-0.01, churn));
            assert!(equal >= 980, "{equal} equal ones of 1000 pass at {churn}");
            assert!(
                better >= 990,
                "{better} better ones of 1000 pass at {churn}"
            );
            let worse = passed(RULED_OUT * settings().max_drop, churn);
            assert!(worse <= 10, "{worse} worse ones of 1000 pass at {churn}");
        }
    }
}
