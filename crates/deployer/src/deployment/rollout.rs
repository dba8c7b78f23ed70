//! One deployment from its plan to its end: start the candidate, run the gates, switch, bake, and roll back if
//! the candidate is worse.

use std::{cell::Cell, collections::HashMap, pin::pin, time::Duration};

use jiff::Timestamp;

use crate::{
    bake::period::BakeStart,
    config::{OnInterrupt, Settings},
    deployment::{
        decisions::Decisions,
        ending::{Ending, Traffic, ending},
        gate_runner::GateRunner,
        interrupted::stop_candidate,
        phase::Phase,
        plan::Plan,
        return_traffic::{record_switched, restore_standby, roll_back},
        scope::Scope,
        windows,
    },
    event::{Event, Reporter},
    evidence::sample::TrafficSample,
    examples::Examples,
    gates::GoldenLabels,
    ports::{HookPoint, Ports},
    request_reader::RequestReader,
    shutdown::Stop,
    state::journal::Journal,
};

/// A failed candidate did not finish its bake.
const NOT_PROVEN: Option<bool> = Some(false);

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The last phase.
    pub phase: Phase,
    /// Why, as a sentence for people.
    pub reason: String,
    /// Why the end could not be written to the journal; `None` if it was written.
    pub unwritten: Option<String>,
}

/// A deployment under way.
pub struct Rollout<'a> {
    /// The settings.
    pub settings: &'a Settings,
    /// The plan.
    pub plan: &'a Plan,
    /// What the candidate is compared with.
    pub scope: Scope,
    /// The test inputs.
    pub examples: &'a Examples,
    /// The ports.
    pub ports: &'a Ports,
    /// Reads what clients were answered.
    pub requests: RequestReader<'a>,
    /// The journal.
    pub journal: &'a Journal<'a>,
    /// What operators decide.
    pub decisions: Decisions,
    /// Receives the events.
    pub reporter: &'a dyn Reporter,
}

impl Rollout<'_> {
    /// Deploys. Every error becomes an outcome that says where traffic is.
    ///
    /// `stop` resolves when the deployer should stop. Before the switch, the candidate is then refused. After the
    /// switch, it is rolled back, unless `bake.on_interrupt` is `continue`; then the first signal does not count.
    pub async fn run<F: Future<Output = Stop>>(self, stop: impl Fn() -> F) -> Outcome {
        self.reporter.report(&Event::Planned { plan: self.plan });
        let phase = Cell::new(Phase::Planned);
        let advance = self.advance(&phase);
        let advanced = self.advance_until_stopped(&phase, advance, stop).await;
        self.finish(phase.get(), advanced).await
    }

    /// Bakes a candidate that has had traffic since its deployer was killed.
    pub async fn resume<F: Future<Output = Stop>>(self, stop: impl Fn() -> F) -> Outcome {
        let phase = Cell::new(Phase::Switched);
        // Earlier log lines may be about another release that had this color and the traffic.
        let switched = self.journal.read().await.ok();
        let switched = switched
            .and_then(|entries| entries.deployment)
            .map(|entry| seconds(entry.since));
        let before = match switched {
            Some(at) => self.traffic_before(at).await,
            None => TrafficSample::default(),
        };
        // The question of the killed deployer. This one asks anew, after its own bake.
        let cleared = self.journal.set_waiting(self.plan, None).await;
        self.note_failure(cleared);
        let start = BakeStart {
            before,
            since: switched,
            golden_labels: HashMap::new(),
            verdicts: Vec::new(),
        };
        let advance = self.bake_and_promote(&phase, start);
        let advanced = self.advance_until_stopped(&phase, advance, stop).await;
        self.finish(phase.get(), advanced).await
    }

    /// Carries out `advance` until it ends or the deployer should stop. What was under way is dropped when this returns.
    ///
    /// `stop` is looked at before each step: after a deployer was frozen, another command may have moved the traffic.
    async fn advance_until_stopped<F: Future<Output = Stop>>(
        &self,
        phase: &Cell<Phase>,
        advance: impl Future<Output = Result<String, String>>,
        stop: impl Fn() -> F,
    ) -> Result<String, String> {
        let mut go_on = self.settings.bake.on_interrupt == OnInterrupt::Continue;
        let mut advance = pin!(advance);
        loop {
            let stop = tokio::select! {
                biased;
                stop = stop() => stop,
                () = self.decisions.answer_all(self.reporter) => continue,
                advanced = &mut advance => return advanced,
            };
            match stop {
                Stop::Signal if phase.get() == Phase::Switched && std::mem::take(&mut go_on) => {
                    self.note("stop signal received; the bake continues (bake.on_interrupt); the next signal rolls back".to_owned());
                }
                stop => {
                    self.report_rejection(&stop);
                    return Err(stop.to_string());
                }
            }
        }
    }

    /// Ends the deployment, which reached `phase`.
    async fn finish(&self, phase: Phase, advanced: Result<String, String>) -> Outcome {
        let outcome = match advanced {
            Ok(reason) => {
                let reason = self.decisions.complete_reason(reason);
                self.end(Phase::Promoted, reason).await
            }
            Err(reason) => {
                let reason = self.decisions.complete_reason(reason);
                self.handle_failure(phase, reason).await
            }
        };
        self.hook_after(outcome.phase, Some(&outcome.reason)).await;
        outcome
    }

    /// The path of a good release. `phase` is the phase reached so far.
    async fn advance(&self, phase: &Cell<Phase>) -> Result<String, String> {
        self.reach(phase, Phase::Planned).await?;
        if let Some(reason) = &self.plan.outside_window {
            self.note(format!("deploying outside of the windows: {reason}"));
        }
        let active_down = self.active_is_down().await?;
        let before = self.before().await;
        self.start_candidate(phase, active_down).await?;
        let gate_runner = GateRunner {
            settings: self.settings,
            color: self.plan.idle,
            release: &self.plan.release,
            examples: self.examples,
            ports: self.ports,
            requests: &self.requests,
            before: &before,
            nothing_to_compare: active_down || self.scope == Scope::Alone,
            golden_labels: GoldenLabels::default(),
            keep_going: false,
            reporter: self.reporter,
        };
        gate_runner.await_healthy().await?;
        self.note_short_stop().await;

        self.hook_before(Phase::Healthy).await?;
        self.reach(phase, Phase::Healthy).await?;
        self.hook_after(Phase::Healthy, None).await;
        let evidence = self.take_evidence(&gate_runner).await?;

        self.hook_before(Phase::Validated).await?;
        self.reach(phase, Phase::Validated).await?;
        self.hook_after(Phase::Validated, None).await;
        let evidence = self
            .await_approval_of_switch(&gate_runner, evidence)
            .await?;
        self.hook_before(Phase::Switched).await?;
        let golden_labels = gate_runner.golden_labels.take();
        let before = self.before_switch(before, &evidence).await;
        // As late as possible: the gates may have taken longer than the window was open.
        self.check_window()?;
        let since = self.switch().await?;

        self.reach(phase, Phase::Switched).await?;
        let start = BakeStart {
            before,
            since,
            golden_labels,
            verdicts: evidence.verdicts,
        };
        self.bake_and_promote(phase, start).await
    }

    /// Fails if the window in which the deployment began has closed. A rollback to an earlier release needs no window.
    fn check_window(&self) -> Result<(), String> {
        match self.scope {
            Scope::Alone => Ok(()),
            Scope::Compared | Scope::ActiveDown => {
                windows::check(&self.settings.windows, self.ports.clock.now())
            }
        }
    }

    /// The path from the switch to the promotion.
    async fn bake_and_promote(
        &self,
        phase: &Cell<Phase>,
        start: BakeStart,
    ) -> Result<String, String> {
        let mut bake = Box::pin(self.bake(start));
        // The bake does not wait for the hook.
        let summary = tokio::select! {
            summary = &mut bake => summary,
            () = self.hook_after(Phase::Switched, None) => bake.await,
        };
        self.confirm_traffic_stayed().await?;
        let summary = summary?;
        self.hook_before(Phase::Promoted).await?;
        self.confirm_traffic_stayed().await?;
        let fit = self.ports.flags.set_fit(self.plan.idle, true).await;
        fit.map_err(message)?;
        if self.scope == Scope::Alone {
            // A person left that release, so it must not stand in.
            self.note_failure(self.ports.flags.set_fit(self.plan.active, false).await);
        }
        phase.set(Phase::Promoted);
        Ok(summary)
    }

    /// Fails if a person moved the traffic away: the candidate is then neither promoted nor to blame.
    async fn confirm_traffic_stayed(&self) -> Result<(), String> {
        let active = self.plan.active;
        if self.ports.router.active().await.ok() == Some(active) {
            return Err(format!(
                "a person moved traffic back to {active} during the deployment"
            ));
        }
        Ok(())
    }

    /// Ends a failed deployment: returns traffic if the candidate may have it, and stops the candidate last.
    async fn handle_failure(&self, phase: Phase, reason: String) -> Outcome {
        let Plan { active, idle, .. } = *self.plan;
        let traffic = self.observe_traffic(phase).await;
        let decide = |previous_healthy| ending(phase, traffic, NOT_PROVEN, previous_healthy);
        let (end, remark) = match decide(None) {
            Ending::RollBack => {
                if phase != Phase::Switched
                    && let Err(text) = record_switched(self.ports, self.journal, self.plan).await
                {
                    self.note(text);
                }
                self.note(format!("rolling back: moving traffic to {active}"));
                roll_back(self.ports, self.plan, decide).await
            }
            end => (end, None),
        };
        // An interrupted gate may have left the copies on. No later command ends what a finished deployment
        // leaves, so this happens before the end is written.
        if phase != Phase::Planned {
            self.note_failure(self.ports.flags.set_shadow(false).await);
        }
        // Gives the report what clients received until now.
        drop(self.read_log().await);
        let reason = match remark {
            None => reason,
            Some(unconfirmed) if end == Ending::RollBack => format!("{reason}; {unconfirmed}"),
            Some(obstacle) => format!(
                "{reason}; the rollback failed: {obstacle}. `deployer status` shows where traffic goes; repair one color, then `deployer switch COLOR`"
            ),
        };
        let outcome = self.end(end.phase().unwrap_or(phase), reason).await;
        // Traffic first, cleanup last.
        if phase == Phase::Planned {
            self.note_failure(restore_standby(self.ports, self.plan).await);
        }
        // Stopping the candidate ends the requests that hang on it; the router repeats them on the other color.
        if end.stops_candidate(phase)
            && let Err(error) =
                stop_candidate(self.ports, self.journal, idle, end, self.reporter).await
        {
            self.note(format!("the candidate could not be stopped: {error}"));
        }
        outcome
    }

    /// Returns where the traffic is, as far as it matters for the end. The flag decides whether traffic moved,
    /// not the phase that this program reached.
    async fn observe_traffic(&self, phase: Phase) -> Traffic {
        match phase {
            Phase::Starting | Phase::Healthy | Phase::Validated => {
                match self.ports.router.active().await {
                    Ok(color) => Traffic::on(color, self.plan),
                    Err(_) => match self.ports.flags.active().await {
                        Ok(color) if color == self.plan.idle => Traffic::Mixed,
                        Ok(_) | Err(_) => Traffic::Unknown,
                    },
                }
            }
            // Before, no server is touched. Afterward, a rollback does not wait for the router's answer.
            Phase::Planned
            | Phase::Switched
            | Phase::Promoted
            | Phase::Refused
            | Phase::RolledBack
            | Phase::Halted => Traffic::Unknown,
        }
    }

    /// Writes `next` to the journal.
    pub(super) async fn reach(&self, phase: &Cell<Phase>, next: Phase) -> Result<(), String> {
        let now = phase.get();
        debug_assert!(
            now == next || now.on_success() == Some(next),
            "{now} is not followed by {next}"
        );
        self.journal
            .record_phase(self.plan, next, None)
            .await
            .map_err(message)?;
        phase.set(next);
        self.reporter.report(&Event::PhaseReached {
            phase: next,
            reason: None,
        });
        Ok(())
    }

    /// Runs the hook before a phase. Its failure fails the deployment.
    pub(super) async fn hook_before(&self, phase: Phase) -> Result<(), String> {
        let hooks = &self.ports.hooks;
        let run = hooks.run(HookPoint::Before, phase, self.plan, None);
        run.await.map_err(message)
    }

    /// Runs the hook after a phase. Its failure is only reported.
    pub(super) async fn hook_after(&self, phase: Phase, reason: Option<&str>) {
        let hooks = &self.ports.hooks;
        let run = hooks.run(HookPoint::After, phase, self.plan, reason);
        self.note_failure(run.await);
    }

    /// Reports an error that does not change how the deployment goes on.
    pub(crate) fn note_failure<E: std::error::Error>(&self, result: Result<(), E>) {
        if let Err(error) = result {
            self.note(error.to_string());
        }
    }

    pub(crate) fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }

    async fn end(&self, phase: Phase, reason: String) -> Outcome {
        // Traffic is where the outcome says, whether or not the journal can be written.
        let written = self
            .journal
            .record_phase(self.plan, phase, Some(&reason))
            .await;
        let unwritten = written.err().map(message);
        if let Some(text) = unwritten.clone() {
            self.note(text);
        }
        self.reporter.report(&Event::PhaseReached {
            phase,
            reason: Some(&reason),
        });
        Outcome {
            phase,
            reason,
            unwritten,
        }
    }
}

pub(crate) fn message(error: impl std::error::Error) -> String {
    error.to_string()
}

pub(crate) fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

pub(crate) fn rounded(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}
