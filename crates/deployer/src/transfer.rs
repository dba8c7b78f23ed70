//! Traffic that is moved without a deployment: by a person, or away from a color that is down.

use jiff::Timestamp;

use crate::{
    color::Color,
    event::{Event, Reporter},
    history::{Deed, Past},
    intent::Intent,
    journal::{Journal, JournalError},
    phase::Phase,
    ports::{Service, Target, World, WorldError},
    report::Reports,
};

/// Traffic moves from one color to the other, for a reason, and becomes a line of the history.
pub struct Transfer<'a> {
    /// The ports.
    pub world: &'a World,
    /// Where it is written down, before and afterwards.
    pub journal: &'a Journal,
    /// Who is told.
    pub reporter: &'a dyn Reporter,
}

/// Traffic that has moved, which is not the end of it: see [`Transfer::clean_up`].
#[derive(Debug)]
#[must_use]
pub struct Moved {
    intent: Intent,
    /// Whether everything about it could be written down.
    written: bool,
    /// Whether requests may hang on the color that was left.
    left_hanging: bool,
}

impl Transfer<'_> {
    /// Moves traffic from the color that has it, and cleans up. What cannot be written down is worth a
    /// line, not a failure: a full disk must keep nobody from rolling back.
    pub async fn make(
        &self,
        deed: Deed,
        from: Color,
        to: Color,
        reason: &str,
    ) -> Result<(), WorldError> {
        let moved = self.move_traffic(deed, from, to, reason).await?;
        self.clean_up(moved).await;
        Ok(())
    }

    /// The same without cleaning up, which may take its time: clients are served when this returns.
    pub async fn move_traffic(
        &self,
        deed: Deed,
        from: Color,
        to: Color,
        reason: &str,
    ) -> Result<Moved, WorldError> {
        let intent = Intent {
            deed,
            from,
            to,
            reason: reason.to_owned(),
            at: Timestamp::now(),
            from_was_fit: self.world.router.is_fit(from),
        };
        self.told(self.journal.intend(&intent));
        self.move_flags(&intent).await?;
        Ok(Moved {
            written: self.write_down(&intent).await,
            left_hanging: deed == Deed::FailedOver,
            intent,
        })
    }

    /// Stops the color that traffic left because it was down: the router repeats on the other one what
    /// hangs on it. Bounded as the fleet bounds it. Only then is there nothing left to be known to the
    /// next deployer, who does this if nobody else did.
    pub async fn clean_up(&self, moved: Moved) {
        let Moved {
            intent,
            written,
            left_hanging,
        } = moved;
        if left_hanging
            && let Err(error) = self.world.fleet.stop(Service::Server(intent.from)).await
        {
            self.note(format!("{} could not be stopped: {error}", intent.from));
        }
        if written {
            self.told(self.journal.carried_out());
        }
    }

    /// Sees to what a deployer was about to do when it died; none when there is nothing like it.
    ///
    /// Traffic that has moved is written down. Traffic that has not is moved where `go_on` says so
    /// and the color that is to get it is healthy; otherwise nothing is left of it. A failover is
    /// never gone on with: `deployer watch` looks again whether there is a reason for one.
    pub async fn finish(&self, go_on: bool) -> Result<Option<Intent>, WorldError> {
        let Some(intent) = self.journal.intent() else {
            return Ok(None);
        };
        let words = intent.words();
        let moved = self.world.router.active().await? == intent.to;
        let go_on = go_on && intent.deed != Deed::FailedOver;
        let finish = moved || go_on && self.is_healthy(intent.to).await;
        if !finish {
            if intent.from_was_fit {
                self.world.router.set_fit(intent.from, true)?;
            }
            self.told(self.journal.carried_out());
            self.note(format!(
                "{words} was interrupted before any traffic moved: nothing is left of it"
            ));
            return Ok(None);
        }
        self.note(format!("{words} was interrupted and is brought to its end"));
        self.move_flags(&intent).await?;
        let written = self.write_down(&intent).await;
        // This may be much later. A color that has recovered meanwhile has answered what hung on it.
        let left_hanging = intent.deed == Deed::FailedOver && !self.is_healthy(intent.from).await;
        self.clean_up(Moved {
            intent: intent.clone(),
            written,
            left_hanging,
        })
        .await;
        Ok(Some(intent))
    }

    async fn move_flags(&self, intent: &Intent) -> Result<(), WorldError> {
        let &Intent { from, to, deed, .. } = intent;
        // The flag first, so that a sick color never stands in for the other. A color that a person
        // merely turned away from is not sick.
        if deed != Deed::Switched {
            self.world.router.set_fit(from, false)?;
        }
        let displaced = self.world.router.point_at(to).await?;
        if displaced != to {
            self.reporter.report(&Event::Moved {
                from: displaced,
                to,
            });
        }
        Ok(())
    }

    async fn is_healthy(&self, color: Color) -> bool {
        let asked = self.world.probe.health(Target::Server(color)).await;
        asked.is_ok()
    }

    /// Takes note of what the move means for the last deployment, and of the move itself. Done
    /// twice, it is written once. Whether all of it could be written.
    async fn write_down(&self, intent: &Intent) -> bool {
        let noted = self.note_for_the_deployment(intent);
        let written = if matches!(noted, Ok(true)) && intent.deed == Deed::RolledBack {
            Ok(())
        } else {
            self.add_line(intent).await
        };
        let complete = noted.is_ok() && written.is_ok();
        self.told(noted.map(drop));
        self.told(written);
        complete
    }

    async fn add_line(&self, intent: &Intent) -> Result<(), JournalError> {
        let past = self.journal.past()?;
        let told = |line: &Past| line.deed == intent.deed && line.at >= intent.at;
        if past.iter().any(told) {
            return Ok(());
        }
        let health = self.world.probe.health(Target::Server(intent.to)).await;
        let version = health.ok().and_then(|health| health.model_version);
        let line = Past::moved(intent.deed, intent.to, version, &intent.reason);
        self.journal.done(&line)
    }

    /// Whether the move ended or took back the last deployment.
    fn note_for_the_deployment(&self, intent: &Intent) -> Result<bool, JournalError> {
        let Some(entry) = self.journal.last()? else {
            return Ok(false);
        };
        let &Intent { from, to, .. } = intent;
        let Some(end) = end_of(entry.phase, from == entry.plan.idle, to == entry.plan.idle) else {
            return Ok(false);
        };
        let by_hand;
        let reason = match end {
            Phase::Halted => {
                by_hand = format!(
                    "the deployer was interrupted before the candidate was proven, and traffic was left on {to} {}",
                    intent.reason
                );
                &by_hand
            }
            Phase::Refused => "the deployer was interrupted; it never moved traffic",
            _ => &intent.reason,
        };
        self.journal.reached(&entry.plan, end, Some(reason))?;
        // What the report says beside the journal is worth a line, not a failure.
        if let Err(error) = Reports::of(self.journal.state()).end(&entry.plan.id, end, reason) {
            self.note(error.to_string());
        }
        Ok(true)
    }

    fn told(&self, written: Result<(), JournalError>) {
        if let Err(error) = written {
            self.note(error.to_string());
        }
    }

    fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }
}

/// What becomes of a deployment last seen in `phase` when traffic moves: from its candidate or not,
/// to its candidate or not. None when it is over and stays what it is.
fn end_of(phase: Phase, from_candidate: bool, to_candidate: bool) -> Option<Phase> {
    if phase.is_end() {
        let taken_back = phase == Phase::Promoted && from_candidate && !to_candidate;
        return taken_back.then_some(Phase::RolledBack);
    }
    let candidate_had_traffic = from_candidate || phase == Phase::Switched;
    Some(match (candidate_had_traffic, to_candidate) {
        // It is where a person wants it, and was not proven.
        (true, true) if from_candidate => Phase::Halted,
        (true, _) => Phase::RolledBack,
        (false, _) => Phase::Refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_CANDIDATE: bool = true;
    const TO_CANDIDATE: bool = true;

    #[test]
    fn a_promoted_release_that_loses_its_traffic_is_rolled_back() {
        let end = |from, to| end_of(Phase::Promoted, from, to);
        assert_eq!(end(FROM_CANDIDATE, !TO_CANDIDATE), Some(Phase::RolledBack));
        assert_eq!(end(!FROM_CANDIDATE, TO_CANDIDATE), None);
        assert_eq!(end(FROM_CANDIDATE, TO_CANDIDATE), None);
    }

    #[test]
    fn nobody_promotes_a_candidate_that_was_not_watched_to_the_end() {
        for phase in [
            Phase::Planned,
            Phase::Starting,
            Phase::Healthy,
            Phase::Validated,
            Phase::Switched,
        ] {
            for (from, to) in [(false, false), (false, true), (true, false), (true, true)] {
                let end = end_of(phase, from, to).unwrap();
                assert_ne!(end, Phase::Promoted, "{phase}");
                let moved = from || phase == Phase::Switched;
                assert_eq!(end == Phase::Refused, !moved, "{phase} {from} {to}");
            }
        }
    }

    #[test]
    fn an_end_that_is_none_of_traffics_business_stays() {
        for phase in [Phase::Refused, Phase::RolledBack, Phase::Halted] {
            assert_eq!(end_of(phase, FROM_CANDIDATE, !TO_CANDIDATE), None);
        }
    }
}
