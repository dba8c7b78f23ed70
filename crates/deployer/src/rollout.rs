//! One deployment from beginning to end: prove the candidate, move traffic, watch, and give
//! traffic back when the candidate is worse.

use std::{fmt::Write as _, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::{
    config::Settings,
    event::{Event, Reporter},
    gates::{self, Candidate, Gate, Healthy},
    journal::Journal,
    phase::{Phase, Return, Traffic},
    plan::Plan,
    ports::{Service, State, Target, World},
    verdict::Tally,
    watch::{Look, Watch},
};

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// An end.
    pub phase: Phase,
    /// Why, in words for people.
    pub reason: String,
}

/// A deployment under way.
pub struct Rollout<'a> {
    /// The figures.
    pub settings: &'a Settings,
    /// What is to be done.
    pub plan: &'a Plan,
    /// The ports.
    pub world: &'a mut World,
    /// Where each phase is written down.
    pub journal: &'a Journal,
    /// Who is told.
    pub reporter: &'a dyn Reporter,
}

impl Rollout<'_> {
    /// Deploys. Whatever goes wrong on the way, the outcome says where traffic is now.
    ///
    /// When `stop` resolves before the end, the candidate has failed: nobody would be watching it.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Outcome {
        self.reporter.report(&Event::Planned { plan: self.plan });
        let mut phase = Phase::Planned;
        let advanced = tokio::select! {
            advanced = self.advance_to_the_end(&mut phase) => advanced,
            () = stop => Err("the deployer was told to stop".to_owned()),
        };
        match advanced {
            Ok(reason) => self.end(Phase::Promoted, reason),
            Err(reason) => self.fail(phase, reason).await,
        }
    }

    /// The way of a good release; `phase` tells how far it came.
    async fn advance_to_the_end(&mut self, phase: &mut Phase) -> Result<String, String> {
        let Plan {
            active,
            idle,
            ref release,
            ..
        } = *self.plan;
        self.reach(phase, Phase::Planned)?;
        let asked = self.world.probe.health(Target::Server(active)).await;
        asked.map_err(|error| format!("the active color {active} is not healthy, so nothing could be compared or rolled back to: {error}"))?;

        // Before the phase in which the idle color is fair game: a flag that cannot be changed is
        // no reason to stop a standby that was not replaced.
        self.world.router.set_fit(active, true).map_err(words)?;
        self.world.router.set_fit(idle, false).map_err(words)?;

        self.reach(phase, Phase::Starting)?;
        self.world
            .fleet
            .start(idle, &release.version)
            .await
            .map_err(words)?;
        self.ask(&Healthy::new(self.settings.health.clone()))
            .await?;

        self.reach(phase, Phase::Healthy)?;
        for gate in gates::before_the_switch(self.settings) {
            self.ask(gate.as_ref()).await?;
        }

        self.reach(phase, Phase::Validated)?;
        self.switch().await?;

        self.reach(phase, Phase::Switched)?;
        let summary = self.watch().await?;
        if self.world.router.active().await.ok() == Some(active) {
            return Err(format!("somebody moved traffic back to {active} meanwhile"));
        }
        self.world.router.set_fit(idle, true).map_err(words)?;
        *phase = Phase::Promoted;
        Ok(summary)
    }

    async fn ask(&self, gate: &dyn Gate) -> Result<(), String> {
        let candidate = Candidate {
            color: self.plan.idle,
            release: &self.plan.release,
            world: self.world,
            reporter: self.reporter,
        };
        let verdict = gate.judge(&candidate).await;
        self.reporter.report(&Event::Judged {
            gate: gate.name(),
            verdict: &verdict,
        });
        if verdict.lets_through() {
            Ok(())
        } else {
            Err(format!("{}: {}", gate.name(), verdict.summary))
        }
    }

    /// Moves all traffic, and believes it only when clients are answered by the candidate.
    async fn switch(&mut self) -> Result<(), String> {
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
        if let Some(traffic) = &mut self.world.traffic {
            traffic.new_requests().map_err(words)?;
        }
        let from = self.world.router.point_at(idle).await.map_err(words)?;
        self.reporter.report(&Event::Moved { from, to: idle });
        let served = self.world.probe.health(Target::Public).await;
        let served = served
            .map_err(|error| format!("after the switch clients are not answered: {error}"))?;
        let verdict = gates::compare(release, &served);
        if verdict.lets_through() {
            Ok(())
        } else {
            Err(format!(
                "after the switch clients are answered by another release: {}",
                verdict.summary
            ))
        }
    }

    async fn watch(&mut self) -> Result<String, String> {
        let settings = self.settings.watch.clone();
        let mut watch = Watch::new(settings.clone());
        let began = Instant::now();
        let mut ticks = tokio::time::interval(settings.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut probes = 0;
        let mut missing = 0;
        loop {
            ticks.tick().await;
            let public =
                (0..missing).map(|number| self.world.probe.predict(Target::Public, number));
            let (mut look, answers) = tokio::join!(self.look(), join_all(public));
            probes += missing;
            look.traffic = self
                .read_traffic()
                .unwrap_or_else(|| answers.iter().map(Result::is_ok).collect());
            watch.see(look);
            // A quiet service is judged too: what clients do not send is sent by probes.
            missing = watch.missing_requests();
            let elapsed = began.elapsed();
            self.reporter.report(&Event::Watched {
                elapsed,
                of: settings.duration,
                tally: watch.tally(),
                trouble: watch.trouble(),
            });
            if let Some(mut verdict) = watch.verdict(elapsed) {
                if probes > 0 {
                    let _ = write!(
                        verdict.summary,
                        "; probes were added to the traffic: {probes}"
                    );
                }
                self.reporter.report(&Event::Judged {
                    gate: "watch",
                    verdict: &verdict,
                });
                return if verdict.lets_through() {
                    Ok(format!(
                        "watched for {}: {}",
                        rounded(elapsed),
                        verdict.summary
                    ))
                } else {
                    Err(format!(
                        "watch, after {}: {}",
                        rounded(elapsed),
                        verdict.summary
                    ))
                };
            }
        }
    }

    /// Looks at the candidate itself; what clients saw of it is read from the log.
    async fn look(&self) -> Look {
        let idle = self.plan.idle;
        let target = Target::Server(idle);
        let probe = &self.world.probe;
        let (health, request) = tokio::join!(probe.health(target), probe.predict(target, 0));
        let mut look = Look {
            health: Some(health.map_err(words)),
            request: Some(request.map_err(words)),
            ..Look::default()
        };
        if let Some(Err(_)) = look.health
            && let Ok((State::Stopped(how), _)) =
                self.world.fleet.inspect(Service::Server(idle)).await
        {
            look.stopped = Some(how);
        }
        look
    }

    /// What clients saw, from the log; none where there is no log to read.
    ///
    /// A log that cannot be read is no news, good or bad: the probes and counters go on.
    fn read_traffic(&mut self) -> Option<Tally> {
        let requests = self.world.traffic.as_mut()?.new_requests();
        Some(match requests {
            Ok(requests) => requests
                .iter()
                .filter_map(|request| request.speaks_of(self.plan.idle))
                .collect(),
            Err(error) => {
                self.reporter.report(&Event::Note {
                    text: error.to_string(),
                });
                Tally::default()
            }
        })
    }

    async fn fail(&mut self, mut phase: Phase, reason: String) -> Outcome {
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
        }
        let mut given_back = Ok(());
        if phase.traffic() == Traffic::Candidate {
            self.reporter.report(&Event::Note {
                text: format!("giving traffic back to {active}"),
            });
            given_back = give_back(self.world, self.plan).await;
        }
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
        // Traffic first, cleaning up last. Requests that still hang on the candidate are ended
        // with it, and the router repeats them on the other color.
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
    fn reach(&self, phase: &mut Phase, next: Phase) -> Result<(), String> {
        debug_assert!(
            *phase == next || phase.on_success() == Some(next),
            "{phase} is not followed by {next}"
        );
        self.journal.reached(self.plan, next, None).map_err(words)?;
        *phase = next;
        self.reporter.report(&Event::Reached {
            phase: next,
            reason: None,
        });
        Ok(())
    }

    fn end(&self, phase: Phase, reason: String) -> Outcome {
        // The traffic is where the outcome says, whether or not it can be written down.
        if let Err(error) = self.journal.reached(self.plan, phase, Some(&reason)) {
            self.reporter.report(&Event::Note {
                text: error.to_string(),
            });
        }
        self.reporter.report(&Event::Reached {
            phase,
            reason: Some(&reason),
        });
        Outcome { phase, reason }
    }
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

fn rounded(duration: Duration) -> String {
    format!("{:.0} s", duration.as_secs_f64())
}
