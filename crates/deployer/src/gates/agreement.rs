//! The gate `agreement`: where do candidate and active release answer differently?

use std::fmt::Write as _;

use async_trait::async_trait;

use crate::{
    config::AgreementSettings,
    evidence::{
        details::{Evidence, Flip},
        statistics::stability_index,
        verdict::{Conclusion, Verdict},
    },
    examples::Example,
    gates::{
        gate::{Candidate, Gate},
        pairs::{Pair, errors_of, predict_pairs},
    },
};

/// How many flips the report keeps.
const FLIPS: usize = 50;
/// The least number of inputs that both releases answered.
const MIN_INPUTS: usize = 50;
/// The number of equally large classes of the active release's confidence.
const CLASSES: usize = 10;

/// Compares labels. The correct labels need not be known.
#[derive(Debug)]
pub struct Agreement {
    settings: AgreementSettings,
}

impl Agreement {
    /// Creates the gate with these limits.
    #[must_use]
    pub fn new(settings: AgreementSettings) -> Self {
        Self { settings }
    }
}

#[async_trait]
impl Gate for Agreement {
    fn name(&self) -> &'static str {
        "agreement"
    }

    fn needs_active(&self) -> bool {
        true
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let inputs: Vec<&Example> = candidate.examples.agreement.iter().collect();
        let pairs = predict_pairs(candidate, &inputs).await;
        self.compare(&pairs)
    }
}

impl Agreement {
    fn compare(&self, pairs: &[Pair<'_>]) -> Verdict {
        // An input that the active release does not answer cannot be compared.
        let compared: Vec<_> = pairs
            .iter()
            .filter(|pair| pair.active_label().is_some())
            .collect();
        if compared.is_empty() && pairs.iter().any(|pair| pair.active.is_ok()) {
            return Verdict::skipped(
                "no answer of the active release holds a label where probe.label says",
            );
        }
        let inputs = compared.len();
        if inputs < MIN_INPUTS {
            return Verdict::new(
                Conclusion::Inconclusive,
                format!(
                    "the active release gave a label to {inputs} of {} inputs, at least {MIN_INPUTS} are needed",
                    pairs.len()
                ),
            )
            .with("inputs", inputs as f64);
        }
        let mut flips: Vec<Flip> = compared.iter().filter_map(|pair| flip(pair)).collect();
        flips.sort_by(|one, other| other.severity().total_cmp(&one.severity()));
        let failed = compared
            .iter()
            .filter(|pair| pair.candidate.is_err())
            .count();
        let mut verdict = self.judge_labels(inputs, flips.len(), failed);
        if let Some(drift) = drift_of_confidence(&compared) {
            if drift > self.settings.warn_drift {
                verdict.warnings.push(format!(
                    "its confidence is distributed differently from the active release's (population stability index {drift:.2})"
                ));
            }
            verdict = verdict.with("confidence_drift", drift);
        }
        flips.truncate(FLIPS);
        verdict.with_evidence(Evidence {
            flips,
            errors: errors_of(pairs),
            ..Evidence::default()
        })
    }

    /// Judges on how many inputs the candidate gave the same label as the active release.
    fn judge_labels(&self, inputs: usize, flipped: usize, failed: usize) -> Verdict {
        let AgreementSettings {
            warn_below,
            min_agreement,
            ..
        } = self.settings;
        let agreement = 1.0 - (flipped + failed) as f64 / inputs as f64;
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let mut same = format!(
            "the same label as the active release on {} of {inputs} inputs ({})",
            inputs - flipped - failed,
            percent(agreement)
        );
        if failed > 0 {
            let _ = write!(same, ", of which it did not answer {failed}");
        }
        let mut verdict = if agreement < min_agreement {
            let needed = percent(min_agreement);
            Verdict::new(
                Conclusion::Fail,
                format!("{same}, at least {needed} needed"),
            )
        } else {
            Verdict::new(Conclusion::Pass, same)
        };
        if agreement < warn_below {
            verdict.warnings.push(format!(
                "it disagrees with the active release on {} of {inputs} inputs",
                flipped + failed
            ));
        }
        verdict
            .with("inputs", inputs as f64)
            .with("flips", flipped as f64)
            .with("failed", failed as f64)
            .with("agreement", agreement)
            .with("agreement_minimum", min_agreement)
    }
}

/// The flip, if both releases answered and differ.
fn flip(pair: &Pair<'_>) -> Option<Flip> {
    let active = pair.active_label()?;
    pair.candidate.as_ref().ok()?;
    let candidate = pair.candidate_label();
    if candidate == Some(active) {
        return None;
    }
    let confidence =
        |answer: &Result<crate::ports::Prediction, _>| answer.as_ref().ok()?.confidence;
    Some(Flip {
        input: pair.example.body.clone(),
        active: active.to_owned(),
        candidate: candidate.unwrap_or("no label").to_owned(),
        active_confidence: confidence(&pair.active),
        candidate_confidence: confidence(&pair.candidate),
        expect: pair.example.expect.clone(),
    })
}

/// The drift of the candidate's confidence; `None` with too few values.
fn drift_of_confidence(pairs: &[&Pair<'_>]) -> Option<f64> {
    let mut both: Vec<(f64, f64)> = pairs
        .iter()
        .filter_map(|pair| {
            let active = pair.active.as_ref().ok()?.confidence?;
            let candidate = pair.candidate.as_ref().ok()?.confidence?;
            Some((active, candidate))
        })
        .collect();
    if both.len() < 10 * CLASSES {
        return None;
    }
    both.sort_by(|one, other| one.0.total_cmp(&other.0));
    let edges: Vec<f64> = (1..CLASSES)
        .map(|class| both[class * both.len() / CLASSES].0)
        .collect();
    let count = |values: &mut dyn Iterator<Item = f64>| {
        let mut counts = [0_u64; CLASSES];
        for value in values {
            counts[edges.partition_point(|edge| *edge <= value)] += 1;
        }
        counts
    };
    let active = count(&mut both.iter().map(|(active, _)| *active));
    let candidate = count(&mut both.iter().map(|(_, candidate)| *candidate));
    Some(stability_index(&active, &candidate))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        examples::Example,
        ports::{PortError, Prediction},
    };

    #[expect(
        clippy::unnecessary_wraps,
        reason = "the releases' answers may be errors"
    )]
    fn answer(label: &str, confidence: f64) -> Result<Prediction, PortError> {
        Ok(Prediction {
            label: Some(label.to_owned()),
            confidence: Some(confidence),
            took: Duration::from_millis(1),
            stream: None,
        })
    }

    fn examples(count: usize) -> Vec<Example> {
        (0..count)
            .map(|number| Example {
                body: number.to_string(),
                expect: None,
            })
            .collect()
    }

    /// The verdict on these answers of the candidate. The active release answers "yes" to each input, with
    /// rising confidence.
    fn judge(
        candidate: impl Fn(usize) -> Result<Prediction, PortError>,
        min_agreement: f64,
    ) -> Verdict {
        let examples = examples(200);
        let pairs: Vec<Pair<'_>> = examples
            .iter()
            .enumerate()
            .map(|(number, example)| Pair {
                example,
                active: answer("yes", 0.5 + number as f64 / 400.0),
                candidate: candidate(number),
            })
            .collect();
        Agreement::new(settings(min_agreement)).compare(&pairs)
    }

    fn settings(min_agreement: f64) -> AgreementSettings {
        AgreementSettings {
            inputs: None,
            warn_below: 0.9,
            min_agreement,
            warn_drift: 0.25,
        }
    }

    fn same(number: usize) -> Result<Prediction, PortError> {
        answer("yes", 0.5 + number as f64 / 400.0)
    }

    #[test]
    fn equal_answers_pass_without_warning() {
        let verdict = judge(same, 1.0);
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert!(verdict.warnings.is_empty(), "{:?}", verdict.warnings);
        assert!(verdict.numbers["confidence_drift"] < 1e-9);
    }

    #[test]
    fn flips_are_sorted_by_severity() {
        let verdict = judge(
            |number| match number {
                10 => answer("no", 0.99),
                190 => answer("no", 0.9),
                _ => same(number),
            },
            0.0,
        );
        let inputs: Vec<&str> = verdict
            .evidence
            .flips
            .iter()
            .map(|flip| flip.input.as_str())
            .collect();
        assert_eq!(inputs, ["190", "10"]);
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert!(verdict.warnings.is_empty());
    }

    #[test]
    fn many_flips_warn_and_fail_only_below_min_agreement() {
        let flips = |number| match same(number) {
            Ok(answer) if number < 30 => Ok(Prediction {
                label: Some("no".to_owned()),
                ..answer
            }),
            answer => answer,
        };
        let verdict = judge(flips, 0.0);
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert_eq!(
            verdict.warnings,
            ["it disagrees with the active release on 30 of 200 inputs"]
        );
        assert_eq!(judge(flips, 0.86).conclusion, Conclusion::Fail);
    }

    #[test]
    fn failed_answer_is_neither_flip_nor_agreement() {
        let verdict = judge(|_| Err(PortError::TimedOut("timed out".to_owned())), 0.5);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(verdict.evidence.flips.is_empty());
        assert_eq!(verdict.evidence.errors["timed out"], 200);
    }

    #[test]
    fn answer_without_label_is_a_flip() {
        let unlabeled = |_| {
            Ok(Prediction {
                label: None,
                ..answer("", 0.9)?
            })
        };
        let verdict = judge(unlabeled, 0.5);
        assert_eq!(verdict.evidence.flips.len(), FLIPS);
        assert_eq!(verdict.evidence.flips[0].candidate, "no label");
    }

    #[test]
    fn too_few_inputs_are_inconclusive() {
        let examples = examples(49);
        let pairs: Vec<Pair<'_>> = examples
            .iter()
            .map(|example| Pair {
                example,
                active: answer("yes", 0.9),
                candidate: answer("yes", 0.9),
            })
            .collect();
        let verdict = Agreement::new(settings(0.0)).compare(&pairs);
        assert_eq!(verdict.conclusion, Conclusion::Inconclusive);
    }

    #[test]
    fn confidence_drift_is_a_warning() {
        let verdict = judge(|_| answer("yes", 0.99), 0.0);
        assert!(
            verdict.warnings[0].contains("confidence"),
            "{:?}",
            verdict.warnings
        );
    }
}
