//! A change that is written at once, and then pushed to the routers.

use std::time::Duration;

use crate::{
    cluster::{
        change::{Action, ChangeLimits, Event, FlagEdit, Message, Settled, settle::Settle},
        truth::Truth,
    },
    ports::{Version, WriteError},
};

/// How a change without a fence ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DecideOutcome {
    /// The store holds the change.
    Decided {
        /// What the store holds.
        truth: Truth,
        /// What became of each router; `None` if the list of routers could not be read.
        settled: Option<Settled>,
    },
    /// A change is prepared, and this one does not decide over it. Nothing was written.
    OtherPrepared {
        /// Who prepared it.
        by: String,
    },
    /// The store did not answer in time.
    Failed {
        /// What the store's adapter said.
        error: String,
        /// Whether a write may have landed, or may still land.
        may_land: bool,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    Writing(Option<Truth>),
    /// The settling begins when the routers are listed, and ends at the time at the latest.
    Listing(Truth, Duration),
    Settling(Settle),
    Finished(DecideOutcome),
}

/// Writes a change at once: one that needs no fence, or a roll-back or failover, which no silent router may block.
///
/// It waits 1.1 T at most for the routers to confirm, and names the silent ones. Until then, routers may serve different
/// flags.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Decide {
    edit: FlagEdit,
    over_prepared: bool,
    limits: ChangeLimits,
    phase: Phase,
    store_limit: Duration,
    store_error: Option<String>,
    store_busy: bool,
    may_land: bool,
    next_number: u64,
}

impl Decide {
    /// Creates the change and returns its first actions. `over_prepared`: whether it decides over a prepared change of
    /// another deployer, which then is refused; only a roll-back or a failover does.
    #[must_use]
    pub fn begin(
        edit: FlagEdit,
        over_prepared: bool,
        limits: ChangeLimits,
        now: Duration,
    ) -> (Self, Vec<Action>) {
        let decide = Self {
            edit,
            over_prepared,
            limits,
            phase: Phase::Writing(None),
            store_limit: now + limits.store,
            store_error: None,
            store_busy: true,
            may_land: false,
            next_number: 0,
        };
        (decide, vec![Action::Read])
    }

    /// Returns how the change ended; `None` while it goes on.
    #[must_use]
    pub fn outcome(&self) -> Option<&DecideOutcome> {
        match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Takes what happened, and returns what to do.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Read(result) => {
                self.store_busy = false;
                match result {
                    Ok((truth, version)) if matches!(self.phase, Phase::Writing(_)) => {
                        self.read(&truth, version, now)
                    }
                    Ok(_) => Vec::new(),
                    Err(error) => self.failed(&error.to_string()),
                }
            }
            Event::Replaced(result) => {
                self.store_busy = false;
                self.replaced(result.map(|_| ()), now)
            }
            Event::Listed(result) => {
                self.store_busy = false;
                match (result, &mut self.phase) {
                    (Err(error), _) => return self.failed(&error.to_string()),
                    (Ok(entries), Phase::Listing(truth, until)) => {
                        let until = *until;
                        let names = entries.into_iter().map(|entry| entry.name);
                        self.phase = Phase::Settling(Settle::new(
                            truth.clone(),
                            names,
                            self.next_number + 1,
                            until,
                        ));
                        return self.push(now);
                    }
                    (Ok(entries), Phase::Settling(settle)) => settle.listed(&entries),
                    _ => {}
                }
                self.finish_if_settled(now);
                Vec::new()
            }
            Event::Reported {
                router,
                number,
                report,
            } => {
                if let Phase::Settling(settle) = &mut self.phase {
                    settle.reported(&router, number, &report);
                }
                self.finish_if_settled(now);
                Vec::new()
            }
            Event::Unreached { .. } => Vec::new(),
            Event::Tick => self.tick(now),
        }
    }

    fn failed(&mut self, error: &str) -> Vec<Action> {
        self.store_error = Some(error.to_owned());
        Vec::new()
    }

    fn store(&mut self, action: Action) -> Vec<Action> {
        self.store_busy = true;
        vec![action]
    }

    fn read(&mut self, truth: &Truth, version: Version, now: Duration) -> Vec<Action> {
        if let Some(prepared) = &truth.prepared
            && !self.over_prepared
        {
            let by = prepared.by.clone();
            self.phase = Phase::Finished(DecideOutcome::OtherPrepared { by });
            return Vec::new();
        }
        let flags = self.edit.apply(truth.flags);
        // Also after a write whose answer was lost.
        if flags == truth.flags && truth.prepared.is_none() {
            return self.list(truth.clone(), now);
        }
        let decided = truth.decide(flags);
        self.phase = Phase::Writing(Some(decided.clone()));
        self.store(Action::Replace(version, decided))
    }

    fn replaced(&mut self, result: Result<(), WriteError>, now: Duration) -> Vec<Action> {
        match (result, &self.phase) {
            (Ok(()), Phase::Writing(Some(truth))) => self.list(truth.clone(), now),
            (Err(WriteError::Conflict), _) => self.store(Action::Read),
            (Err(error), _) => {
                self.may_land |= matches!(error, WriteError::Unknown(_));
                self.failed(&error.to_string())
            }
            (Ok(()), _) => Vec::new(),
        }
    }

    fn list(&mut self, truth: Truth, now: Duration) -> Vec<Action> {
        self.phase = Phase::Listing(truth, now + self.limits.wait());
        self.store(Action::List)
    }

    fn push(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Phase::Settling(settle) = &self.phase {
            for router in settle.unsettled() {
                self.next_number += 1;
                let message = Message::Apply(settle.truth().clone());
                actions.push(Action::Send {
                    router,
                    number: self.next_number,
                    message,
                });
            }
        }
        self.finish_if_settled(now);
        actions
    }

    fn finish_if_settled(&mut self, now: Duration) {
        if let Phase::Settling(settle) = &self.phase
            && let Some(settled) = settle.finished(now)
        {
            let (truth, settled) = (settle.truth().clone(), Some(settled));
            self.phase = Phase::Finished(DecideOutcome::Decided { truth, settled });
        }
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        match &self.phase {
            Phase::Writing(_) if now >= self.store_limit => {
                let error = self
                    .store_error
                    .take()
                    .unwrap_or_else(|| "no answer".to_owned());
                self.phase = Phase::Finished(DecideOutcome::Failed {
                    error,
                    may_land: self.may_land || self.store_busy,
                });
            }
            Phase::Listing(truth, until) if now >= *until => {
                let truth = truth.clone();
                self.phase = Phase::Finished(DecideOutcome::Decided {
                    truth,
                    settled: None,
                });
            }
            _ => {}
        }
        let mut actions = self.push(now);
        if !self.store_busy {
            let action = match &self.phase {
                Phase::Writing(_) => Some(Action::Read),
                Phase::Listing(..) | Phase::Settling(_) => Some(Action::List),
                Phase::Finished(_) => None,
            };
            actions.extend(action.into_iter().flat_map(|action| self.store(action)));
        }
        actions
    }
}
