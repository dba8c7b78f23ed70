//! Moves traffic outside of a deployment: `rollback`, `switch`, and the monitor's failover.

use crate::{
    color::Color,
    deployment::{
        ending::{Ending, Traffic, ending},
        interrupted::stop_and_name,
        phase::Phase,
    },
    event::{Event, Reporter},
    ports::{JournalError, OnSilentRouter, PortError, Ports, Switched, Target, UnconfirmedRouter},
    report::Reports,
    state::{
        action::Action, history::HistoryEntry, journal::Journal, lock_holder::current_user,
        traffic_move::TrafficMove,
    },
};

/// Moves traffic from one color to the other and records it in the history.
pub struct TrafficMover<'a> {
    /// The ports.
    pub ports: &'a Ports,
    /// The journal.
    pub journal: &'a Journal<'a>,
    /// The reports, one of which may be about a deployment that the move ends.
    pub reports: &'a Reports,
    /// Receives the events.
    pub reporter: &'a dyn Reporter,
}

/// Traffic has moved; [`TrafficMover::clean_up`] is left to do.
#[derive(Debug)]
#[must_use]
pub struct PendingCleanup {
    traffic_move: TrafficMove,
    /// Whether journal and history have it.
    written: bool,
    /// Whether requests may hang on the color that traffic left.
    requests_hang: bool,
}

impl PendingCleanup {
    /// Whether requests may hang on the color that traffic left.
    #[must_use]
    pub fn requests_hang(&self) -> bool {
        self.requests_hang
    }
}

impl TrafficMover<'_> {
    /// Moves all traffic from `from` to `to`, and stops `from` if requests may hang on it.
    ///
    /// A journal that cannot be written is reported, not returned: a full disk must not block a rollback.
    pub async fn move_and_clean_up(
        &self,
        action: Action,
        from: Color,
        to: Color,
        reason: &str,
    ) -> Result<(), PortError> {
        let moved = self.move_traffic(action, from, to, reason).await?;
        self.clean_up(moved).await;
        Ok(())
    }

    /// Moves all traffic without cleaning up. Clients are served when this returns.
    pub async fn move_traffic(
        &self,
        action: Action,
        from: Color,
        to: Color,
        reason: &str,
    ) -> Result<PendingCleanup, PortError> {
        self.move_traffic_by(action, from, to, reason, &current_user())
            .await
    }

    /// The same on behalf of `by`, such as a person on the page.
    pub async fn move_traffic_by(
        &self,
        action: Action,
        from: Color,
        to: Color,
        reason: &str,
        by: &str,
    ) -> Result<PendingCleanup, PortError> {
        let fit = self.ports.flags.is_fit(from).await;
        let mut traffic_move = TrafficMove {
            action,
            from,
            to,
            reason: reason.to_owned(),
            by: by.to_owned(),
            at: self.ports.clock.now(),
            // Unreadable counts as unfit: a rollback must not wait, and an undone move then sets no flag.
            from_was_fit: fit == Ok(true),
        };
        self.note_failure(self.journal.begin_move(&traffic_move).await);
        let silent = match action {
            Action::Switched => OnSilentRouter::Refuse,
            _ => OnSilentRouter::MoveOthers,
        };
        if let Err(error) = self.move_flags(&mut traffic_move, silent).await {
            // Several routers refuse a move as a whole. Nothing is left to complete.
            let refused = silent == OnSilentRouter::Refuse
                && self.ports.flags.active().await == Ok(from)
                && from != to;
            if refused {
                self.note_failure(self.journal.finish_move().await);
            }
            return Err(error);
        }
        Ok(PendingCleanup {
            written: self.record(&traffic_move).await,
            requests_hang: action == Action::FailedOver
                || action == Action::RolledBack && !self.is_healthy(from).await,
            traffic_move,
        })
    }

    /// Stops the color that traffic left if it was down or hangs, so that the router repeats its hanging requests on the
    /// other color. Answers that have begun there break off. Then removes the entry of the move; until then the next deployer does this.
    pub async fn clean_up(&self, moved: PendingCleanup) {
        let PendingCleanup {
            traffic_move,
            written,
            requests_hang,
        } = moved;
        let TrafficMove { from, to, .. } = traffic_move;
        if requests_hang {
            self.note(format!(
                "{from} is not healthy and is stopped: the router repeats its hanging requests on {to}, and answers that {from} has begun, such as streams, break off"
            ));
            let stopped = stop_and_name(self.ports, self.journal, from, self.reporter);
            if let Err(error) = stopped.await {
                self.note(format!("{from} could not be stopped: {error}"));
            }
        }
        if written {
            self.note_failure(self.journal.finish_move().await);
        }
    }

    /// Records a rollback that was done without the lock.
    pub async fn record_rollback(&self, from: Color, to: Color, reason: &str) {
        let traffic_move = TrafficMove {
            action: Action::RolledBack,
            from,
            to,
            reason: reason.to_owned(),
            by: current_user(),
            at: self.ports.clock.now(),
            from_was_fit: false,
        };
        self.record(&traffic_move).await;
    }

    /// Completes or undoes a move that a killed deployer left. Returns the completed move.
    ///
    /// If traffic has moved, the move is recorded. If it has not, and `go_on` is set, it moves when the target
    /// color is healthy. Otherwise the move is undone. A failover is never completed: the monitor decides
    /// again.
    pub async fn resume(&self, go_on: bool) -> Result<Option<TrafficMove>, PortError> {
        // The next write to the journal reports that it is unreadable.
        let pending = self.journal.read().await.ok();
        let Some(mut traffic_move) = pending.and_then(|entries| entries.traffic_move) else {
            return Ok(None);
        };
        let moved = self.ports.router.active().await? == traffic_move.to;
        let go_on = go_on && traffic_move.action != Action::FailedOver;
        let resume = moved || go_on && self.is_healthy(traffic_move.to).await;
        if !resume || !self.complete(&mut traffic_move, moved).await? {
            if traffic_move.from_was_fit {
                self.ports.flags.set_fit(traffic_move.from, true).await?;
            }
            self.note_failure(self.journal.finish_move().await);
            self.note(format!(
                "{traffic_move} was interrupted before traffic moved, and was undone"
            ));
            return Ok(None);
        }
        let written = self.record(&traffic_move).await;
        // This may be much later. A color that has recovered in between has answered its hanging requests.
        let requests_hang =
            traffic_move.action == Action::FailedOver && !self.is_healthy(traffic_move.from).await;
        self.clean_up(PendingCleanup {
            traffic_move: traffic_move.clone(),
            written,
            requests_hang,
        })
        .await;
        Ok(Some(traffic_move))
    }

    /// Completes an interrupted move. Returns false if it was refused, and traffic is where it was: what follows an
    /// interrupted switch, such as a rollback, must not wait for a missing router.
    async fn complete(
        &self,
        traffic_move: &mut TrafficMove,
        moved: bool,
    ) -> Result<bool, PortError> {
        self.note(format!(
            "{traffic_move} was interrupted and is being completed"
        ));
        if moved || traffic_move.action != Action::Switched {
            self.move_flags(traffic_move, OnSilentRouter::MoveOthers)
                .await?;
            return Ok(true);
        }
        match self.move_flags(traffic_move, OnSilentRouter::Refuse).await {
            Ok(()) => Ok(true),
            Err(error) if self.ports.flags.active().await == Ok(traffic_move.from) => {
                self.note(error.to_string());
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Moves the traffic. The reason of the move then names the routers that did not confirm it.
    async fn move_flags(
        &self,
        traffic_move: &mut TrafficMove,
        silent: OnSilentRouter,
    ) -> Result<(), PortError> {
        let TrafficMove {
            from, to, action, ..
        } = *traffic_move;
        // First, so that a failed color does not stand in. After `deployer switch` the color has not failed.
        if action != Action::Switched {
            self.ports.flags.set_fit(from, false).await?;
        }
        let switched = self.ports.router.switch_to(to, silent).await?;
        let Switched {
            displaced,
            unconfirmed,
        } = &switched;
        if *displaced != to {
            self.reporter.report(&Event::TrafficMoved {
                from: *displaced,
                to,
                unconfirmed,
            });
        }
        if let Some(words) = UnconfirmedRouter::in_words(unconfirmed) {
            traffic_move.reason = format!("{}; {words}", traffic_move.reason);
        }
        Ok(())
    }

    async fn is_healthy(&self, color: Color) -> bool {
        let asked = self.ports.probe.health(Target::Server(color)).await;
        asked.is_ok()
    }

    /// Records the move in journal and history, once even if called twice. Returns whether both could be
    /// written.
    async fn record(&self, traffic_move: &TrafficMove) -> bool {
        let noted = self.update_last_deployment(traffic_move).await;
        let written = if matches!(noted, Ok(true)) && traffic_move.action == Action::RolledBack {
            Ok(())
        } else {
            self.append_history(traffic_move).await
        };
        let complete = noted.is_ok() && written.is_ok();
        self.note_failure(noted.map(drop));
        self.note_failure(written);
        complete
    }

    async fn append_history(&self, traffic_move: &TrafficMove) -> Result<(), JournalError> {
        let entries = self.journal.history().await?;
        // Another command writes no such line while the move is in the journal.
        let is_this_move =
            |line: &HistoryEntry| line.action == traffic_move.action && line.at >= traffic_move.at;
        if entries.iter().any(is_this_move) {
            return Ok(());
        }
        let health = self
            .ports
            .probe
            .health(Target::Server(traffic_move.to))
            .await;
        let version = health.ok().and_then(|health| health.model_version);
        let line = HistoryEntry::of_move(traffic_move, self.ports.clock.now(), version);
        self.journal.append_history(&line).await
    }

    /// Ends or reverts the last deployment, if the move does. Returns whether it did.
    async fn update_last_deployment(
        &self,
        traffic_move: &TrafficMove,
    ) -> Result<bool, JournalError> {
        let Some(entry) = self.journal.read().await?.deployment else {
            return Ok(false);
        };
        let &TrafficMove { from, to, .. } = traffic_move;
        let candidate = entry.plan.idle;
        let Some(end) = end_of(entry.phase, from == candidate, to == candidate).phase() else {
            return Ok(false);
        };
        let by_hand;
        let reason = match end {
            Phase::Halted => {
                by_hand = format!(
                    "the deployer was interrupted before the candidate was proven, and traffic was left on {to} {}",
                    traffic_move.reason
                );
                &by_hand
            }
            Phase::Refused => "the deployer was interrupted; it never moved traffic",
            _ => &traffic_move.reason,
        };
        self.journal
            .record_phase_by(&entry.plan, end, Some(reason), Some(&traffic_move.by))
            .await?;
        // A report that cannot be written is only reported.
        if let Err(error) = self.reports.end(&entry.plan.id, end, reason) {
            self.note(error.to_string());
        }
        Ok(true)
    }

    fn note_failure(&self, written: Result<(), JournalError>) {
        if let Err(error) = written {
            self.note(error.to_string());
        }
    }

    fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }
}

/// The end of a deployment in `phase` when traffic moves: from its candidate or not, and to its candidate or
/// not. `Keep` if the deployment is over and does not change.
fn end_of(phase: Phase, from_candidate: bool, to_candidate: bool) -> Ending {
    if phase == Phase::Promoted && from_candidate && !to_candidate {
        return Ending::RollBack;
    }
    let traffic = if from_candidate {
        Traffic::Candidate
    } else {
        Traffic::Previous
    };
    // A move of traffic is no proof of a candidate. The command that moves the traffic has checked the color that gets it.
    match ending(phase, traffic, None, None) {
        // A person wants the traffic there, and the candidate was not proven.
        Ending::RollBack if from_candidate && to_candidate => Ending::Halt,
        end => end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM_CANDIDATE: bool = true;
    const TO_CANDIDATE: bool = true;

    #[test]
    fn promoted_release_is_rolled_back_when_it_loses_traffic() {
        let end = |from, to| end_of(Phase::Promoted, from, to);
        assert_eq!(end(FROM_CANDIDATE, !TO_CANDIDATE), Ending::RollBack);
        assert_eq!(end(!FROM_CANDIDATE, TO_CANDIDATE), Ending::Keep);
        assert_eq!(end(FROM_CANDIDATE, TO_CANDIDATE), Ending::Keep);
    }

    #[test]
    fn moving_traffic_never_promotes_an_unfinished_bake() {
        for phase in [
            Phase::Planned,
            Phase::Starting,
            Phase::Healthy,
            Phase::Validated,
            Phase::Switched,
        ] {
            for (from, to) in [(false, false), (false, true), (true, false), (true, true)] {
                let end = end_of(phase, from, to);
                assert!(
                    matches!(end, Ending::Refuse | Ending::RollBack | Ending::Halt),
                    "{phase}: {end:?}"
                );
                let started = phase != Phase::Planned;
                let had_traffic = from && started || phase == Phase::Switched;
                assert_eq!(end == Ending::Refuse, !had_traffic, "{phase} {from} {to}");
                let candidate_keeps_traffic = from && to && started;
                assert_eq!(
                    end == Ending::Halt,
                    candidate_keeps_traffic,
                    "{phase} {from} {to}"
                );
            }
        }
    }

    #[test]
    fn ended_deployment_is_unchanged_by_traffic() {
        for phase in [Phase::Refused, Phase::RolledBack, Phase::Halted] {
            assert_eq!(end_of(phase, FROM_CANDIDATE, !TO_CANDIDATE), Ending::Keep);
        }
    }
}
