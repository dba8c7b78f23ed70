//! What a verdict says besides its reason: figures, and what could not be compared.

use std::fmt::Write as _;

use super::Bake;
use crate::evidence::{
    details::Evidence,
    endings::Endings,
    sample::{ENOUGH_INPUTS, ENOUGH_LABELS},
    verdict::{Conclusion, Verdict},
};

impl Bake {
    /// Adds the latencies before and since the switch, or a warning that they were not compared.
    fn with_latency_details(&self, mut verdict: Verdict) -> Verdict {
        match self.compare_tails() {
            Some(compared) => {
                let [ours, theirs] = compared.names();
                verdict = verdict
                    .with(ours, compared.seconds)
                    .with(theirs, compared.active_seconds);
                if verdict.conclusion == Conclusion::Pass {
                    let _ = write!(verdict.summary, "; {compared}");
                }
            }
            None => verdict.warnings.push(format!(
                "latency was not compared: {} requests before the switch and {} since",
                self.before.latencies.count(),
                self.traffic.latencies.count()
            )),
        }
        verdict
    }

    /// Adds a warning if the ways in which requests ended were not compared.
    fn with_ending_details(&self, mut verdict: Verdict) -> Verdict {
        let both = [&self.before.endings, &self.traffic.endings];
        if !self.rises().can_compare() {
            let [before, since] = both.map(Endings::requests);
            verdict.warnings.push(format!(
                "refused and abandoned requests were not compared: clients sent {before} requests before the switch and {since} since, {} of each on one route are needed",
                self.settings.min_requests
            ));
        }
        verdict
    }

    /// Adds the drift of the labels, or a warning that they were not compared.
    fn with_label_details(&self, mut verdict: Verdict) -> Verdict {
        match self.label_drift() {
            Some(drift) => {
                verdict = verdict
                    .with("label_drift", drift.index)
                    .with("label_drift_by_chance", drift.by_chance);
            }
            None => verdict.warnings.push(format!(
                "labels were not compared: {} before the switch and {} since, of inputs with {} and {} different sizes; {ENOUGH_LABELS} labels and {ENOUGH_INPUTS} sizes are needed, because repeated inputs tell nothing new",
                self.before.labels(),
                self.traffic.labels(),
                self.before.input_sizes(),
                self.traffic.input_sizes()
            )),
        }
        verdict
    }

    /// Adds to a verdict the figures and warnings that did not decide it.
    pub(super) fn with_details(&self, mut verdict: Verdict) -> Verdict {
        let tally = self.traffic.tally;
        verdict = verdict
            .with("requests", tally.requests as f64)
            .with("failed", tally.failed as f64)
            .with("error_rate", tally.error_rate())
            .with("error_rate_limit", self.settings.max_error_rate);
        verdict = self.with_ending_details(self.with_latency_details(verdict));
        verdict = self.with_label_details(verdict);
        if self.extensions > 0 {
            let times = if self.extensions == 1 {
                "once"
            } else {
                "twice"
            };
            let _ = write!(verdict.summary, "; the bake was extended {times}");
        }
        verdict.warnings.extend(self.previous.answers().cloned());
        for (what, count) in &self.unread {
            verdict.warnings.push(format!(
                "not read at {count} of {} observations: {what}",
                self.observations
            ));
        }
        if self.liveness.counters().are_of_processes() {
            verdict.warnings.push(
                "the release's own counters were not used: they differ from answer to answer, as if each of its processes counted for itself"
                    .to_owned(),
            );
        }
        if self.late_observations > 0 {
            verdict.warnings.push(format!(
                "{} of {} observations came late: the candidate or this machine was slow to answer",
                self.late_observations, self.observations
            ));
        }
        verdict.with_evidence(Evidence {
            active_latency: Some(self.before.latencies.clone()),
            candidate_latency: Some(self.traffic.latencies.clone()),
            ..Evidence::default()
        })
    }
}
