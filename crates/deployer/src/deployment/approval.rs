//! The deployment waits for approval before the switch, or before the promotion.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use model_repository::hexadecimal;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::{
    config::ApprovalPoint,
    deployment::{
        gate_runner::GateRunner,
        phase::Phase,
        rollout::{Rollout, message, seconds},
        scope::Scope,
    },
    event::Event,
    evidence::{
        sample::TrafficSample,
        verdict::{Conclusion, Verdict},
    },
    gates,
    release::Release,
    shutdown::Stop,
    state::{
        approval::{ApprovalDecision, Waiting},
        operator_request::{OperatorCommand, OperatorRequest},
    },
};

/// The verdicts of gates, in order, with the gates' names.
pub(crate) type Verdicts = Vec<(&'static str, Verdict)>;

/// Verdicts, and when they were complete.
pub(super) struct Evidence {
    pub(super) verdicts: Verdicts,
    pub(super) taken: Timestamp,
    /// When the last question was asked that a person approved.
    asked: Option<Timestamp>,
}

/// A question that waits for a decision.
pub(crate) struct Question {
    pub(crate) waiting: Waiting,
    /// When it expires on a clock that never jumps. The other clock shows when the machine slept.
    deadline: Instant,
}

impl Rollout<'_> {
    /// Whether the deployment waits at this point. A person who goes back to an earlier release is in a hurry, and has
    /// decided.
    pub(crate) fn needs_approval(&self, point: ApprovalPoint) -> bool {
        self.scope != Scope::Alone && self.settings.approval.is_needed(point)
    }

    /// Waits for approval of the switch, if the settings say so. Returns the evidence that holds at the switch.
    ///
    /// If verdicts are older than `approval.fresh`, the gates run again: once before the first question, and once after an approval. Then
    /// the question is asked again, because the approval was for the earlier verdicts.
    pub(super) async fn await_approval_of_switch(
        &self,
        gate_runner: &GateRunner<'_>,
        mut evidence: Evidence,
    ) -> Result<Evidence, String> {
        if !self.needs_approval(ApprovalPoint::Switched) {
            return Ok(evidence);
        }
        if self.is_stale(&evidence) {
            evidence = self.rerun_gates(gate_runner).await?;
        }
        let mut was_renewed = false;
        loop {
            let question = self.ask(Phase::Switched, &evidence.verdicts).await?;
            let request = self.watch_until_decided(&question).await?;
            // A machine that slept may get both at once.
            self.check_expiry(&question)?;
            self.approve(&question, &request).await;
            if was_renewed || !self.is_stale(&evidence) {
                evidence.asked = Some(question.waiting.since);
                return Ok(evidence);
            }
            evidence = self.rerun_gates(gate_runner).await?;
            was_renewed = true;
        }
    }

    /// Runs the gates, and ends the copies that a gate may have left on.
    pub(super) async fn take_evidence(
        &self,
        gate_runner: &GateRunner<'_>,
    ) -> Result<Evidence, String> {
        let gates = gates::selected_gates(self.settings);
        let verdicts = gate_runner.run(gates).await?;
        // If the gate `shadow` could not end the copies, its verdict is inconclusive, and the settings may let it
        // pass. After the switch the copies would go to the release that was replaced.
        let copies = self.ports.flags.set_shadow(false).await;
        copies.map_err(message)?;
        Ok(Evidence {
            verdicts,
            taken: self.ports.clock.now(),
            asked: None,
        })
    }

    /// What clients received from the active release before the switch: `before` is from before the gates. A deployment
    /// that waited long compares with what they received while it waited.
    pub(super) async fn before_switch(
        &self,
        before: TrafficSample,
        evidence: &Evidence,
    ) -> TrafficSample {
        if self.scope == Scope::Alone {
            return TrafficSample::default();
        }
        if let Some(asked) = evidence.asked
            && let Some(Ok(mut requests)) = self.requests.recent_requests().await
        {
            requests.retain(|request| request.at >= seconds(asked));
            let meanwhile = TrafficSample::recent(self.plan.active, &requests);
            if meanwhile.is_comparable() {
                return meanwhile;
            }
        }
        self.before_and_since(before).await
    }

    async fn rerun_gates(&self, gate_runner: &GateRunner<'_>) -> Result<Evidence, String> {
        let fresh = humantime::format_duration(self.settings.approval.fresh);
        self.note(format!(
            "the verdicts of the gates are older than {fresh} (approval.fresh): the gates run again"
        ));
        self.take_evidence(gate_runner).await
    }

    fn is_stale(&self, evidence: &Evidence) -> bool {
        let age = self.ports.clock.now().duration_since(evidence.taken);
        let fresh = SignedDuration::try_from(self.settings.approval.fresh);
        age > fresh.unwrap_or(SignedDuration::MAX)
    }

    /// Asks for approval. From now on, an operator can decide.
    pub(crate) async fn ask(
        &self,
        before: Phase,
        verdicts: &[(&'static str, Verdict)],
    ) -> Result<Question, String> {
        let limit = self.settings.approval.expires;
        let now = self.ports.clock.now();
        let waiting = Waiting {
            before,
            evidence: digest_of(&self.plan.release, verdicts),
            since: now,
            expires: now.checked_add(limit).unwrap_or(Timestamp::MAX),
        };
        let deadline = Instant::now() + limit;
        let written = self.journal.set_waiting(self.plan, Some(&waiting)).await;
        written.map_err(message)?;
        self.decisions.open_approval(waiting.clone());
        self.reporter.report(&Event::ApprovalAwaited {
            before,
            evidence: &waiting.evidence,
            expires: waiting.expires,
        });
        Ok(Question { waiting, deadline })
    }

    /// Fails if no person decided in time.
    pub(crate) fn check_expiry(&self, question: &Question) -> Result<(), String> {
        let waiting = &question.waiting;
        if Instant::now() < question.deadline && self.ports.clock.now() < waiting.expires {
            return Ok(());
        }
        self.decisions.close();
        let limit = humantime::format_duration(self.settings.approval.expires);
        let reason = format!("no person decided within {limit} (approval.expires)");
        self.report_decision(waiting, ApprovalDecision::Expired, None, Some(&reason));
        Err(format!(
            "approval before {} expired: {reason}",
            waiting.before
        ))
    }

    /// Records an approval.
    pub(crate) async fn approve(&self, question: &Question, request: &OperatorRequest) {
        let waiting = &question.waiting;
        let written = self.journal.set_waiting(self.plan, None).await;
        self.note_failure(written);
        self.decisions.add_approval(waiting, request);
        let (by, reason) = (Some(&*request.by), request.reason.as_deref());
        self.report_decision(waiting, ApprovalDecision::Approved, by, reason);
    }

    /// Reports that the deployment was rejected, if it waits and `stop` rejects it.
    pub(super) fn report_rejection(&self, stop: &Stop) {
        if let Stop::Request(request) = stop
            && request.command == OperatorCommand::Reject
            && let Some(waiting) = self.decisions.waiting()
        {
            let (by, reason) = (Some(&*request.by), request.reason.as_deref());
            self.report_decision(&waiting, ApprovalDecision::Rejected, by, reason);
        }
    }

    fn report_decision(
        &self,
        waiting: &Waiting,
        decision: ApprovalDecision,
        by: Option<&str>,
        reason: Option<&str>,
    ) {
        self.reporter.report(&Event::ApprovalDecided {
            before: waiting.before,
            decision,
            by,
            reason,
        });
    }
}

/// The SHA-256 digest of what a person approves: the release, and each gate's name, conclusion, sentence, and figures.
fn digest_of(release: &Release, verdicts: &[(&'static str, Verdict)]) -> String {
    #[derive(Serialize)]
    struct Shown<'a> {
        release: &'a Release,
        gates: Vec<ShownGate<'a>>,
    }
    #[derive(Serialize)]
    struct ShownGate<'a> {
        gate: &'a str,
        verdict: Conclusion,
        summary: &'a str,
        numbers: &'a BTreeMap<&'static str, f64>,
    }

    let gates = verdicts.iter().map(|(gate, verdict)| ShownGate {
        gate,
        verdict: verdict.conclusion,
        summary: &verdict.summary,
        numbers: &verdict.numbers,
    });
    let gates = gates.collect();
    let shown = serde_json::json!(Shown { release, gates });
    hexadecimal(&Sha256::digest(shown.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_changes_with_everything_that_a_person_sees() {
        let release = |version: &str| Release {
            model: "sentiment".to_owned(),
            version: version.to_owned(),
            digest: Some("abc".to_owned()),
        };
        let verdict = Verdict::new(Conclusion::Pass, "right on 9 of 10").with("accuracy", 0.9);
        let digest = |verdicts: &[(&'static str, Verdict)]| digest_of(&release("v2"), verdicts);
        let shown = digest(&[("golden", verdict.clone())]);
        assert_eq!(shown.len(), 64);
        assert_eq!(shown, digest(&[("golden", verdict.clone())]));
        let other = |conclusion, summary: &str, accuracy| {
            Verdict::new(conclusion, summary).with("accuracy", accuracy)
        };
        let mut digests = vec![
            shown,
            digest_of(&release("v3"), &[("golden", verdict.clone())]),
            digest(&[("smoke", verdict.clone())]),
            digest(&[("golden", verdict.clone()), ("smoke", verdict)]),
        ];
        digests.extend(
            [
                other(Conclusion::Inconclusive, "right on 9 of 10", 0.9),
                other(Conclusion::Pass, "right on 8 of 10", 0.9),
                other(Conclusion::Pass, "right on 9 of 10", 0.91),
            ]
            .map(|verdict| digest(&[("golden", verdict)])),
        );
        let count = digests.len();
        digests.sort_unstable();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }
}
