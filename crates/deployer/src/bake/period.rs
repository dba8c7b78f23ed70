//! One bake: from the switch to its verdict, and the wait for approval after it.

use std::{collections::HashMap, fmt::Write as _, time::Duration};

use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use crate::{
    bake::{
        copies::Copies, judge::Bake, observe::LogEvidence, observer::Observer,
        own_requests::WrongAnswers,
    },
    config::{ApprovalPoint, OnInconclusive},
    deployment::{
        approval::{Question, Verdicts},
        phase::Phase,
        rollout::{Rollout, message, rounded},
    },
    event::Event,
    evidence::{
        sample::TrafficSample,
        verdict::{Conclusion, Verdict},
    },
    state::operator_request::OperatorRequest,
};

/// The name under which the bake's verdict is reported.
const BAKE: &str = "bake";

/// What a bake starts from.
pub(crate) struct BakeStart {
    /// What clients received from the active release before the switch.
    pub(crate) before: TrafficSample,
    /// If it is given (seconds since 1970), earlier log lines are not evidence about this candidate.
    pub(crate) since: Option<f64>,
    /// What the candidate answered in the gate `golden`.
    pub(crate) golden_labels: HashMap<String, String>,
    /// The verdicts of the gates.
    pub(crate) verdicts: Verdicts,
}

/// A bake under way.
struct Period<'r, 'a> {
    rollout: &'r Rollout<'a>,
    bake: Bake,
    copies: Copies<'r>,
    observer: Observer<'r>,
    log: LogEvidence,
    gates: Verdicts,
    started: Instant,
    /// Set when the bake has passed and waits for approval.
    held: Option<HeldBake>,
}

/// A bake that passed, and waits for approval.
struct HeldBake {
    summary: String,
    question: Question,
}

impl Rollout<'_> {
    /// Observes the candidate until there is a verdict; then, if the settings say so, until a person approves the
    /// promotion. The candidate is judged all the time.
    pub(crate) async fn bake(&self, start: BakeStart) -> Result<String, String> {
        let copies = Copies::new(self.ports);
        let mut bake = Bake::new(
            self.settings.bake.clone(),
            start.before,
            &self.settings.probe.predict_path,
            copies.are_possible(),
        );
        if self.needs_approval(ApprovalPoint::Promoted) {
            bake = bake.with_hold(self.settings.approval.expires);
        }
        let (inputs, golden) = (&self.examples.golden, start.golden_labels);
        let period = Period {
            rollout: self,
            bake,
            copies,
            observer: Observer::new(self.ports, self.settings, self.plan.idle, inputs, golden),
            log: LogEvidence::since(start.since),
            gates: start.verdicts,
            started: Instant::now(),
            held: None,
        };
        period.run().await
    }
}

impl Period<'_, '_> {
    async fn run(mut self) -> Result<String, String> {
        let rollout = self.rollout;
        rollout.decisions.open_bake(self.bake.failing_now());
        let mut ticks = interval(rollout.settings.bake.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let decision = self.wait(&mut ticks).await;
            if let (Some(request), Some(held)) = (&decision, &self.held) {
                let summary = held.summary.clone();
                self.copies.turn(false).await.map_err(message)?;
                // A machine that slept may get both at once.
                rollout.check_expiry(&held.question)?;
                rollout.approve(&held.question, request).await;
                return Ok(summary);
            }
            if decision.is_none() {
                let (observer, log) = (&mut self.observer, &mut self.log);
                let (bake, copies) = (&mut self.bake, &mut self.copies);
                rollout.observe_all(observer, log, bake, copies).await;
            }
            let elapsed = self.started.elapsed();
            let verdict = match (&decision, &self.held) {
                (Some(_), _) => Some(self.bake.verdict_so_far()),
                (None, Some(_)) => self.bake.failure(elapsed),
                (None, None) => self.bake.verdict(elapsed),
            };
            let failing = match &self.held {
                Some(_) => self.bake.trouble().map(str::to_owned),
                None => self.bake.failing_now(),
            };
            rollout.decisions.set_failing(failing);
            rollout.reporter.report(&Event::BakeObserved {
                elapsed,
                of: self.bake.until(),
                tally: self.bake.tally(),
                trouble: self.bake.trouble(),
            });
            if let Some(verdict) = verdict {
                if let Some(summary) = self.end(verdict, elapsed, decision.as_ref()).await? {
                    return Ok(summary);
                }
                continue;
            }
            if let Some(held) = &self.held {
                rollout.check_expiry(&held.question)?;
            }
            let (bake, copies) = (&mut self.bake, &mut self.copies);
            rollout.follow_question(bake, copies).await?;
        }
    }

    /// Waits for the next observation, and begins it; or until a person has decided.
    async fn wait(&mut self, ticks: &mut Interval) -> Option<OperatorRequest> {
        tokio::select! {
            biased;
            request = self.rollout.decisions.decided() => Some(request),
            _ = ticks.tick() => {
                self.observer.begin_check();
                // Own requests replace the traffic that a quiet service lacks.
                let missing = match &self.held {
                    Some(_) => self.bake.missing_in_window(),
                    None => self.bake.missing_requests(),
                };
                self.observer.send_own_requests(missing);
                None
            }
            () = self.observer.until_stopped() => None,
        }
    }

    /// Ends the bake with this verdict, early if a person has decided that. Returns the summary; `None` if the bake goes on,
    /// because it waits for approval. Fails with the reason for a rollback.
    async fn end(
        &mut self,
        verdict: Verdict,
        elapsed: Duration,
        ended_early: Option<&OperatorRequest>,
    ) -> Result<Option<String>, String> {
        let rollout = self.rollout;
        rollout.decisions.close();
        self.copies.turn(false).await.map_err(message)?;
        let verdict = self.complete(verdict, ended_early);
        rollout.reporter.report(&Event::GateFinished {
            gate: BAKE,
            verdict: &verdict,
        });
        let (seconds, summary) = (rounded(elapsed), &verdict.summary);
        if !self.promotes(&verdict, ended_early.is_some()) {
            return Err(format!("bake, after {seconds}: {summary}"));
        }
        let summary = format!("baked for {seconds}: {summary}");
        if !rollout.needs_approval(ApprovalPoint::Promoted) {
            return Ok(Some(summary));
        }
        let mut shown = self.gates.clone();
        shown.push((BAKE, verdict));
        let question = rollout.ask(Phase::Promoted, &shown).await?;
        self.held = Some(HeldBake { summary, question });
        Ok(None)
    }

    fn promotes(&self, verdict: &Verdict, ended_early: bool) -> bool {
        let on_inconclusive = self.rollout.settings.bake.on_inconclusive;
        verdict.lets_through()
            || verdict.conclusion == Conclusion::Inconclusive
                && (ended_early || on_inconclusive == OnInconclusive::Promote)
    }

    /// Adds the deployer's own requests, warnings, and the request that ended the bake early.
    fn complete(&self, mut verdict: Verdict, ended_early: Option<&OperatorRequest>) -> Verdict {
        let own_requests = &self.observer.own_requests;
        let sent = own_requests.count();
        if sent > 0 {
            let _ = write!(
                verdict.summary,
                "; own requests were added to the traffic: {sent}"
            );
        }
        let WrongAnswers { count, last } = own_requests.wrong();
        if *count > 0 {
            let _ = write!(
                verdict.summary,
                "; own requests to which the candidate gave another answer than before: {count} (last: it {last})"
            );
        }
        if let Some(request) = ended_early {
            let _ = write!(verdict.summary, "; ended early by {request}");
        }
        verdict.warnings.extend(self.rollout.unparsable_lines());
        verdict
    }
}
