//! One deployment from beginning to end: prove the candidate, move traffic, watch, and give
//! traffic back when the candidate is worse.

mod watching;

use std::{cell::Cell, pin::pin, time::Duration};

use jiff::Timestamp;

use crate::{
    color::Color,
    config::{OnInconclusiveGate, OnInterrupt, Settings},
    event::{Event, Reporter},
    examples::Examples,
    gates::{self, Candidate, Gate, Healthy},
    journal::Journal,
    phase::{Phase, Return, Traffic},
    plan::Plan,
    ports::{Service, State, Target, When, World, WorldError},
    release::Release,
    traffic::Seen,
    verdict::{Finding, Verdict},
};

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// An end.
    pub phase: Phase,
    /// Why, in words for people.
    pub reason: String,
    /// Why this could not be written down, if so.
    pub unwritten: Option<String>,
}

/// A deployment under way.
pub struct Rollout<'a> {
    /// The figures.
    pub settings: &'a Settings,
    /// What is to be done.
    pub plan: &'a Plan,
    /// Whether the candidate is wanted although the active color is down, to mend that.
    pub active_down: bool,
    /// What the candidate is asked.
    pub examples: &'a Examples,
    /// The ports.
    pub world: &'a World,
    /// Where each phase is written down.
    pub journal: &'a Journal,
    /// Who is told.
    pub reporter: &'a dyn Reporter,
}

impl Rollout<'_> {
    /// Deploys. Whatever goes wrong on the way, the outcome says where traffic is now.
    ///
    /// `told_to_stop` resolves when somebody wants the deployer to end. Before the switch, the
    /// candidate is then refused. After it, nobody would be watching: it loses the traffic, unless
    /// the settings say to go on; then only the second time counts.
    pub async fn run<F: Future<Output = ()>>(self, told_to_stop: impl Fn() -> F) -> Outcome {
        self.reporter.report(&Event::Planned { plan: self.plan });
        let phase = Cell::new(Phase::Planned);
        let advance = self.advance_to_the_end(&phase);
        self.see_through(&phase, advance, told_to_stop).await
    }

    /// Goes on watching a candidate that has the traffic since a deployer that was killed.
    pub async fn resume<F: Future<Output = ()>>(self, told_to_stop: impl Fn() -> F) -> Outcome {
        let phase = Cell::new(Phase::Switched);
        // What was logged before may be of another release that had this color, and the traffic.
        let switched = self.journal.last().ok().flatten();
        let switched = switched.map(|entry| seconds(entry.since));
        let before = switched.map(|at| self.before_the_switch_at(at));
        let advance = self.watch_to_the_end(&phase, before.unwrap_or_default(), switched);
        self.see_through(&phase, advance, told_to_stop).await
    }

    async fn see_through<F: Future<Output = ()>>(
        &self,
        phase: &Cell<Phase>,
        advance: impl Future<Output = Result<String, String>>,
        told_to_stop: impl Fn() -> F,
    ) -> Outcome {
        let mut go_on = self.settings.watch.on_interrupt == OnInterrupt::Continue;
        let mut advance = pin!(advance);
        let advanced = loop {
            tokio::select! {
                advanced = &mut advance => break advanced,
                () = told_to_stop() => {
                    if phase.get() != Phase::Switched || !std::mem::take(&mut go_on) {
                        break Err("the deployer was told to stop".to_owned());
                    }
                    self.reporter.report(&Event::Note {
                        text: "told to stop, and going on as on_interrupt says; the next time, traffic goes back".to_owned(),
                    });
                }
            }
        };
        let outcome = match advanced {
            Ok(reason) => self.end(Phase::Promoted, reason),
            Err(reason) => self.fail(phase.get(), reason).await,
        };
        self.hook_after(outcome.phase, Some(&outcome.reason)).await;
        outcome
    }

    /// The way of a good release; `phase` tells how far it came.
    async fn advance_to_the_end(&self, phase: &Cell<Phase>) -> Result<String, String> {
        let Plan {
            active,
            idle,
            ref release,
            ..
        } = *self.plan;
        self.reach(phase, Phase::Planned)?;
        let active_down = self.active_is_down().await?;

        let before = self.before();
        self.hook_before(Phase::Starting).await?;

        // Before the phase in which the idle color is fair game: a flag that cannot be changed is
        // no reason to stop a standby that was not replaced.
        let router = &self.world.router;
        router.set_fit(active, !active_down).map_err(words)?;
        router.set_fit(idle, false).map_err(words)?;

        self.reach(phase, Phase::Starting)?;
        self.hook_after(Phase::Starting, None).await;
        self.world
            .fleet
            .start(idle, &release.version)
            .await
            .map_err(words)?;
        let questions = Questions {
            settings: self.settings,
            color: idle,
            release,
            examples: self.examples,
            world: self.world,
            before: &before,
            active_down,
            keep_going: false,
            reporter: self.reporter,
        };
        questions.healthy().await?;

        self.hook_before(Phase::Healthy).await?;
        self.reach(phase, Phase::Healthy)?;
        self.hook_after(Phase::Healthy, None).await;
        questions
            .ask(gates::before_the_switch(self.settings))
            .await?;
        // A gate that could not take the copies back may have been let through as inconclusive: after the
        // switch, they would go on to the release that was replaced.
        router.set_shadow(false).map_err(words)?;

        self.hook_before(Phase::Validated).await?;
        self.reach(phase, Phase::Validated)?;
        self.hook_after(Phase::Validated, None).await;
        self.hook_before(Phase::Switched).await?;
        let before = self.before_and_since(before);
        let since = self.switch().await?;

        self.reach(phase, Phase::Switched)?;
        self.watch_to_the_end(phase, before, since).await
    }

    /// Whether the active color is down; an error where nothing may be begun for that reason.
    async fn active_is_down(&self) -> Result<bool, String> {
        let Plan { active, idle, .. } = *self.plan;
        let Err(trouble) = self.is_well(active).await else {
            if self.active_down {
                self.reporter.report(&Event::Note {
                    text: format!("{active} is active and not down, so nothing is left out"),
                });
            }
            return Ok(false);
        };
        if !self.active_down {
            return Err(format!(
                "the active color {active} is not healthy, so nothing could be compared or rolled back to: {trouble}. If a fix must be shipped nevertheless, `deployer deploy --active-down` leaves out what compares; if {idle} is healthy, `deployer switch {idle}` sends traffic there at once"
            ));
        }
        // Every client is served by it: replacing it would be the outage.
        if self.world.router.is_fit(idle) && self.is_well(idle).await.is_ok() {
            return Err(format!(
                "{active} is down, and {idle} is well and answers every client in its place: `deployer switch {idle}` first, then this deployment goes to {active}"
            ));
        }
        Ok(true)
    }

    /// A health check, and where it decides what is left out, a test request.
    async fn is_well(&self, color: Color) -> Result<(), WorldError> {
        let target = Target::Server(color);
        let probe = &self.world.probe;
        probe.health(target).await?;
        match self.examples.golden.first() {
            Some(example) if self.active_down => probe.predict(target, example).await.map(drop),
            _ => Ok(()),
        }
    }

    /// The rest of that way, from the switch on.
    async fn watch_to_the_end(
        &self,
        phase: &Cell<Phase>,
        before: Seen,
        since: Option<f64>,
    ) -> Result<String, String> {
        let mut watch = pin!(self.watch(before, since));
        // The watch waits for nothing.
        let summary = tokio::select! {
            summary = &mut watch => summary,
            () = self.hook_after(Phase::Switched, None) => watch.await,
        };
        self.still_there().await?;
        let summary = summary?;
        self.hook_before(Phase::Promoted).await?;
        self.still_there().await?;
        let fit = self.world.router.set_fit(self.plan.idle, true);
        fit.map_err(words)?;
        phase.set(Phase::Promoted);
        Ok(summary)
    }

    /// Who has no traffic is neither promoted nor to blame.
    async fn still_there(&self) -> Result<(), String> {
        let active = self.plan.active;
        if self.world.router.active().await.ok() == Some(active) {
            return Err(format!("somebody moved traffic back to {active} meanwhile"));
        }
        Ok(())
    }

    /// Moves all traffic, and believes it only when clients are answered by the candidate. When that was
    /// (seconds since 1970), where the log could not be read until then.
    async fn switch(&self) -> Result<Option<f64>, String> {
        let Plan {
            active,
            idle,
            ref release,
            ..
        } = *self.plan;
        let now = self.world.router.active().await.map_err(words)?;
        if now != active {
            return Err(format!("somebody moved traffic to {now} meanwhile"));
        }
        // A stranger on the candidate's port would have passed every gate in its place.
        if let Ok((State::Stopped(how), _)) = self.world.fleet.inspect(Service::Server(idle)).await
        {
            return Err(format!("the candidate stopped: {how}"));
        }
        // What was logged before the switch is not this candidate's doing.
        let unread = self.read_log().and_then(Result::err);
        let since = unread.as_ref().map(|_| seconds(Timestamp::now()));
        if let Some(text) = unread {
            self.reporter.report(&Event::Note { text });
        }
        let from = self.world.router.point_at(idle).await.map_err(words)?;
        self.reporter.report(&Event::Moved { from, to: idle });
        self.clients_reach(release).await?;
        Ok(since)
    }

    /// Clients are answered by the candidate.
    ///
    /// nginx leaves a color alone for up to two seconds that has just failed it as the active one, and
    /// then sends it one request first, while the standby answers the others: whoever asks right after
    /// the switch may meet the standby.
    async fn clients_reach(&self, release: &Release) -> Result<(), String> {
        const TRIES: u32 = 30;
        const PAUSE: Duration = Duration::from_millis(100);

        let mut problem = String::new();
        for _ in 0..TRIES {
            let served = self.world.probe.health(Target::Public).await;
            let served = served
                .map_err(|error| format!("after the switch clients are not answered: {error}"))?;
            let verdict = gates::compare(release, &served);
            if verdict.lets_through() {
                return Ok(());
            }
            problem = verdict.summary;
            tokio::time::sleep(PAUSE).await;
        }
        Err(format!(
            "after the switch clients are answered by another release: {problem}"
        ))
    }

    async fn fail(&self, mut phase: Phase, reason: String) -> Outcome {
        let Plan { active, idle, .. } = *self.plan;
        // The flag decides whether traffic moved, not how far this program came. Before it tried
        // to move any, a router that does not tell is no reason to think that somebody else did.
        let moved = match phase {
            Phase::Starting | Phase::Healthy => self.world.router.active().await.ok() == Some(idle),
            Phase::Validated => self.world.router.active().await.ok() != Some(active),
            _ => false,
        };
        if moved {
            phase = Phase::Switched;
            // Whoever finds it killed on the way back must not say that traffic never moved.
            if let Err(error) = self.journal.reached(self.plan, phase, None) {
                self.reporter.report(&Event::Note {
                    text: error.to_string(),
                });
            }
        }
        let mut given_back = Ok(());
        if phase.traffic() == Traffic::Candidate {
            self.reporter.report(&Event::Note {
                text: format!("giving traffic back to {active}"),
            });
            given_back = give_back(self.world, self.plan).await;
        }
        // A gate that was interrupted may have left copies on. Before the end is written: nobody comes
        // for what a deployment leaves that is over.
        if phase != Phase::Planned
            && let Err(error) = self.world.router.set_shadow(false)
        {
            self.reporter.report(&Event::Note {
                text: error.to_string(),
            });
        }
        // For the report: what clients saw until now.
        drop(self.read_log());
        let returned = given_back
            .as_ref()
            .map_or(Return::Impossible, |()| Return::Confirmed);
        let touched = phase != Phase::Planned;
        let end = phase.on_failure(returned).unwrap_or(Phase::Halted);
        let outcome = match given_back {
            Ok(()) => self.end(end, reason),
            Err(obstacle) => self.end(
                end,
                format!(
                    "{reason}; the way back failed: {obstacle}. `deployer status` shows where traffic goes; repair one color, then `deployer switch COLOR`"
                ),
            ),
        };
        // Traffic first, cleaning up last.
        if !touched && let Err(error) = restore_standby(self.world, self.plan) {
            self.reporter.report(&Event::Note {
                text: error.to_string(),
            });
        }
        // Requests that still hang on the candidate are ended with it, and the router repeats them on
        // the other color.
        if touched
            && end != Phase::Halted
            && let Err(error) = self.world.fleet.stop(Service::Server(idle)).await
        {
            self.reporter.report(&Event::Note {
                text: format!("the candidate could not be stopped: {error}"),
            });
        }
        outcome
    }

    /// Writes down that the world is in `next`.
    fn reach(&self, phase: &Cell<Phase>, next: Phase) -> Result<(), String> {
        let now = phase.get();
        debug_assert!(
            now == next || now.on_success() == Some(next),
            "{now} is not followed by {next}"
        );
        self.journal.reached(self.plan, next, None).map_err(words)?;
        phase.set(next);
        self.reporter.report(&Event::Reached {
            phase: next,
            reason: None,
        });
        Ok(())
    }

    /// Keeps the deployment from going on when it fails.
    async fn hook_before(&self, phase: Phase) -> Result<(), String> {
        let hooks = &self.world.hooks;
        let run = hooks.run(When::Before, phase, self.plan, None);
        run.await.map_err(words)
    }

    /// What comes of it changes nothing.
    async fn hook_after(&self, phase: Phase, reason: Option<&str>) {
        let hooks = &self.world.hooks;
        if let Err(error) = hooks.run(When::After, phase, self.plan, reason).await {
            self.reporter.report(&Event::Note {
                text: error.to_string(),
            });
        }
    }

    fn end(&self, phase: Phase, reason: String) -> Outcome {
        // The traffic is where the outcome says, whether or not it can be written down.
        let written = self.journal.reached(self.plan, phase, Some(&reason));
        let unwritten = written.err().map(words);
        if let Some(text) = unwritten.clone() {
            self.reporter.report(&Event::Note { text });
        }
        self.reporter.report(&Event::Reached {
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

/// The gates, put to a candidate one after the other.
pub struct Questions<'a> {
    /// The figures.
    pub settings: &'a Settings,
    /// Where the candidate runs.
    pub color: Color,
    /// What it must turn out to be.
    pub release: &'a Release,
    /// What it is asked.
    pub examples: &'a Examples,
    /// The ports.
    pub world: &'a World,
    /// What clients saw of the active release lately.
    pub before: &'a Seen,
    /// Whether the active release is known to be down.
    pub active_down: bool,
    /// Whether those after a gate that does not let the candidate through are asked all the same.
    pub keep_going: bool,
    /// Who is told.
    pub reporter: &'a dyn Reporter,
}

impl Questions<'_> {
    /// Waits until the candidate is healthy; otherwise the reason why it is not.
    pub async fn healthy(&self) -> Result<(), String> {
        let gate: Box<dyn Gate> = Box::new(Healthy::new(self.settings.health.clone()));
        self.ask(vec![gate]).await
    }

    /// Asks until a gate does not let the candidate through: the reason is the error, or all of them
    /// where it is to keep going.
    pub async fn ask(&self, gates: Vec<Box<dyn Gate>>) -> Result<(), String> {
        let mut earlier: Vec<(&'static str, Verdict)> = Vec::new();
        let mut reasons = Vec::new();
        for gate in gates {
            let name = gate.name();
            self.reporter.report(&Event::Asking { gate: name });
            let candidate = Candidate {
                color: self.color,
                release: self.release,
                world: self.world,
                examples: self.examples,
                before: self.before,
                earlier: &earlier,
                active_down: self.active_down,
                reporter: self.reporter,
            };
            let verdict = if self.active_down && gate.compares() {
                Verdict::skipped("the active color is down: there is nothing to compare with")
            } else {
                gate.judge(&candidate).await
            };
            self.reporter.report(&Event::Judged {
                gate: name,
                verdict: &verdict,
            });
            let through = verdict.lets_through()
                || verdict.finding == Finding::Inconclusive
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
            Ok(())
        } else {
            Err(reasons.join("; "))
        }
    }
}

/// Lets the idle color stand in again, if it could before a deployment that did not touch it.
pub fn restore_standby(world: &World, plan: &Plan) -> Result<(), WorldError> {
    if plan.idle_was_fit {
        world.router.set_fit(plan.idle, true)?;
    }
    Ok(())
}

/// Gives traffic back to the color that had it before `plan`, if that one is healthy.
///
/// When it is the sick one, traffic stays where it is: a roll-back must not make things worse.
pub async fn give_back(world: &World, plan: &Plan) -> Result<(), String> {
    const TRIES: u32 = 3;
    const PAUSE: Duration = Duration::from_millis(200);

    let Plan { active, idle, .. } = *plan;
    let mut sick = String::new();
    for _ in 0..TRIES {
        match world.probe.health(Target::Server(active)).await {
            Ok(_) => {
                // The flag first, so that the sick color never stands in for the other; but traffic
                // goes back also when the flag cannot be removed.
                let unfit = world.router.set_fit(idle, false);
                world.router.point_at(active).await.map_err(words)?;
                return unfit.map_err(|error| {
                    format!(
                        "traffic is back on {active}, but {idle} may still stand in for it: {error}"
                    )
                });
            }
            Err(error) => sick = error.to_string(),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(format!("{active} is sick too: {sick}"))
}

fn words(error: impl std::error::Error) -> String {
    error.to_string()
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1e3
}

fn rounded(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}
