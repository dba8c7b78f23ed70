//! Runs gates on a candidate, one after the other.

use crate::{
    color::Color,
    config::{OnInconclusiveGate, Settings},
    event::{Event, Reporter},
    evidence::{
        sample::TrafficSample,
        verdict::{Conclusion, Verdict},
    },
    examples::Examples,
    gates::{Candidate, Gate, GoldenLabels, Healthy},
    ports::Ports,
    release::Release,
    request_reader::RequestReader,
};

/// Runs gates on one candidate.
pub struct GateRunner<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The candidate's color.
    pub color: Color,
    /// The release that the candidate must be.
    pub release: &'a Release,
    /// The test inputs.
    pub examples: &'a Examples,
    /// The ports.
    pub ports: &'a Ports,
    /// Reads what clients are answered.
    pub requests: &'a RequestReader<'a>,
    /// What clients recently received from the active release.
    pub before: &'a TrafficSample,
    /// Whether the candidate is compared with nothing: the active release is down, or may be the bad one.
    pub nothing_to_compare: bool,
    /// What the candidate answered in the gate `golden`, once that gate has run.
    pub golden_labels: GoldenLabels,
    /// Whether to run the remaining gates after one that does not pass.
    pub keep_going: bool,
    /// Receives the events.
    pub reporter: &'a dyn Reporter,
}

impl GateRunner<'_> {
    /// Waits until the candidate is healthy. The error says why it is not.
    pub async fn await_healthy(&self) -> Result<(), String> {
        let gate: Box<dyn Gate> = Box::new(Healthy::new(self.settings.health.clone()));
        self.run(vec![gate]).await.map(drop)
    }

    /// Runs `gates` until one does not let the candidate through; with `keep_going`, runs all of them. Returns the
    /// verdicts in order. The error names each gate that did not, and why.
    pub async fn run(
        &self,
        gates: Vec<Box<dyn Gate>>,
    ) -> Result<Vec<(&'static str, Verdict)>, String> {
        let mut earlier: Vec<(&'static str, Verdict)> = Vec::new();
        let mut reasons = Vec::new();
        for gate in gates {
            let name = gate.name();
            self.reporter.report(&Event::GateStarted { gate: name });
            let candidate = Candidate {
                color: self.color,
                release: self.release,
                ports: self.ports,
                requests: self.requests,
                examples: self.examples,
                before: self.before,
                earlier: &earlier,
                nothing_to_compare: self.nothing_to_compare,
                golden_labels: &self.golden_labels,
                reporter: self.reporter,
            };
            let verdict = if self.nothing_to_compare && gate.needs_active() {
                Verdict::skipped("the active color is down or not to be compared with")
            } else {
                gate.judge(&candidate).await
            };
            self.reporter.report(&Event::GateFinished {
                gate: name,
                verdict: &verdict,
            });
            let through = verdict.lets_through()
                || verdict.conclusion == Conclusion::Inconclusive
                    && self.settings.gates.on_inconclusive == OnInconclusiveGate::Proceed;
            if !through {
                reasons.push(format!("{name}: {}", verdict.summary));
                if !self.keep_going {
                    break;
                }
            }
            earlier.push((name, verdict));
        }
        if reasons.is_empty() {
            Ok(earlier)
        } else {
            Err(reasons.join("; "))
        }
    }
}
