//! A change that is prepared, promised by every router, and then committed.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Action, ChangeLimits, Event, FlagEdit, Message, Outcome, RefusedBecause, settle::Settle,
};
use crate::{
    cluster::{
        message::{Prepare, RouterReport, Undecided},
        truth::{Prepared, Truth},
    },
    ports::{PortError, RouterEntry, Version, WriteError},
};

mod ending;

/// What the deployer knows of a listed router.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Asked {
    /// The newest question that is not answered yet.
    question: Option<u64>,
    promised: bool,
    behind: bool,
    why: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Phase {
    /// Reading the truth, then writing that the change is prepared.
    Preparing,
    /// Collecting promises until the time.
    Looking(Duration),
    /// The commit is in flight.
    Committing,
    /// Reading the outcome, or writing the abort.
    Ending,
    /// The outcome is known.
    Settling(Settle, Option<Vec<RefusedBecause>>),
    Finished(Outcome),
}

/// A change that returns only when no router can serve the old flags any more.
///
/// `now` is any clock that does not stop, such as the time since boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FencedChange {
    limits: ChangeLimits,
    edit: FlagEdit,
    by: String,
    phase: Phase,
    /// The truth in which the change is prepared, and its version.
    base: Option<(Truth, Version)>,
    /// What a write whose answer was lost may have prepared.
    sent: Option<Prepared>,
    /// Whether the answer to the commit was lost.
    commit_unknown: bool,
    routers: BTreeMap<String, Asked>,
    listed: bool,
    /// When the store must have answered.
    store_limit: Duration,
    store_error: Option<String>,
    /// Whether an action for the store is in flight.
    store_busy: bool,
    because: Vec<RefusedBecause>,
    next_number: u64,
}

impl FencedChange {
    /// Creates the change and returns its first actions. `by` must differ from that of every other deployer, because a
    /// deployer recognizes its own change by it.
    #[must_use]
    pub fn begin(
        edit: FlagEdit,
        by: &str,
        limits: ChangeLimits,
        now: Duration,
    ) -> (Self, Vec<Action>) {
        let change = Self {
            limits,
            edit,
            by: by.to_owned(),
            phase: Phase::Preparing,
            base: None,
            sent: None,
            commit_unknown: false,
            routers: BTreeMap::new(),
            listed: false,
            store_limit: now + limits.store,
            store_error: None,
            store_busy: true,
            because: Vec::new(),
            next_number: 0,
        };
        (change, vec![Action::Read])
    }

    /// Returns how the change ended; `None` while it goes on.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Finished(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Takes what happened, and returns what to do.
    #[must_use]
    pub fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if matches!(
            event,
            Event::Read(_) | Event::Replaced(_) | Event::Listed(_)
        ) {
            self.store_busy = false;
        }
        match event {
            Event::Read(Ok((truth, version))) => self.read(truth, version, now),
            Event::Read(Err(error)) => {
                self.store_error = Some(error.to_string());
                Vec::new()
            }
            Event::Replaced(result) => self.replaced(result, now),
            Event::Listed(result) => self.listed(result, now),
            Event::Reported {
                router,
                number,
                report,
            } => self.reported(&router, number, &report, now),
            Event::Unreached { router, error } => {
                if let Some(asked) = self.routers.get_mut(&router) {
                    asked.why = Some(error.to_string());
                }
                Vec::new()
            }
            Event::Tick => self.tick(now),
        }
    }

    fn generation(&self) -> u64 {
        self.base
            .as_ref()
            .map_or(0, |(truth, _)| truth.generation + 1)
    }

    fn store(&mut self, action: Action) -> Vec<Action> {
        self.store_busy = true;
        vec![action]
    }

    fn read(&mut self, truth: Truth, version: Version, now: Duration) -> Vec<Action> {
        match self.phase {
            Phase::Preparing => self.prepare(truth, version, now),
            Phase::Ending => self.end_as_read(truth, version, now),
            _ => Vec::new(),
        }
    }

    fn prepare(&mut self, truth: Truth, version: Version, now: Duration) -> Vec<Action> {
        if let Some(prepared) = &truth.prepared {
            if self.sent.as_ref() == Some(prepared) {
                self.base = Some((truth, version));
                return self.look(now);
            }
            let other = RefusedBecause::OtherPrepared(prepared.by.clone());
            return self.refuse_unprepared(other, false);
        }
        let prepared = truth.prepare(self.edit.apply(truth.flags), &self.by);
        self.sent.clone_from(&prepared.prepared);
        self.base = Some((prepared.clone(), version.clone()));
        self.store(Action::Replace(version, prepared))
    }

    fn refuse_unprepared(&mut self, because: RefusedBecause, left_prepared: bool) -> Vec<Action> {
        self.phase = Phase::Finished(Outcome::Refused {
            because: vec![because],
            left_prepared,
        });
        Vec::new()
    }

    fn look(&mut self, now: Duration) -> Vec<Action> {
        self.phase = Phase::Looking(now + self.limits.promises);
        self.store(Action::List)
    }

    fn replaced(&mut self, result: Result<Version, WriteError>, now: Duration) -> Vec<Action> {
        if let Err(error) = &result {
            self.store_error = Some(error.to_string());
        }
        match (&self.phase, result) {
            (Phase::Preparing, Ok(version)) => {
                if let Some((_, base)) = &mut self.base {
                    *base = version;
                }
                self.look(now)
            }
            (Phase::Committing, Ok(_)) => {
                let committed = self.committed_truth();
                self.settle(committed, None, now)
            }
            (Phase::Committing, Err(WriteError::NotWritten(error))) => {
                self.abort(RefusedBecause::Store(error.to_string()), now)
            }
            (Phase::Committing, Err(error)) => {
                self.commit_unknown = matches!(error, WriteError::Unknown(_));
                self.ending(now);
                self.store(Action::Read)
            }
            (Phase::Ending, Ok(_)) => {
                let aborted = self.aborted_truth();
                let because = self.because.clone();
                self.settle(aborted, Some(because), now)
            }
            (Phase::Preparing | Phase::Ending, Err(WriteError::Conflict)) => {
                self.store(Action::Read)
            }
            // The next tick reads.
            _ => Vec::new(),
        }
    }

    fn listed(
        &mut self,
        result: Result<Vec<RouterEntry>, PortError>,
        now: Duration,
    ) -> Vec<Action> {
        let entries = match result {
            Ok(entries) => entries,
            Err(error) => {
                self.store_error = Some(error.to_string());
                return self.commit_if_promised();
            }
        };
        match &mut self.phase {
            Phase::Looking(_) => {
                self.routers
                    .retain(|name, _| entries.iter().any(|entry| entry.name == *name));
                let mut actions = Vec::new();
                for entry in entries {
                    if !self.routers.contains_key(&entry.name) {
                        self.routers.insert(entry.name.clone(), Asked::default());
                        actions.extend(self.ask_promise(&entry.name));
                    }
                }
                self.listed = true;
                actions.extend(self.commit_if_promised());
                actions
            }
            Phase::Settling(settle, _) => {
                settle.listed(&entries);
                self.finish_if_settled(now);
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    fn send(&mut self, router: &str, message: Message) -> Action {
        self.next_number += 1;
        Action::Send {
            router: router.to_owned(),
            number: self.next_number,
            message,
        }
    }

    /// Asks a router for its promise; a router that missed a generation gets the truth first.
    fn ask_promise(&mut self, router: &str) -> Vec<Action> {
        let Some((truth, _)) = self.base.clone() else {
            return Vec::new();
        };
        let Some(prepared) = &truth.prepared else {
            return Vec::new();
        };
        let moves = prepared.flags.active != truth.flags.active;
        let prepare = Prepare {
            generation: prepared.generation,
            flags: prepared.flags,
            must_reach: moves.then_some(prepared.flags.active),
            fence: self.limits.fence,
        };
        let mut actions = Vec::new();
        if self.routers.get(router).is_some_and(|asked| asked.behind) {
            actions.push(self.send(router, Message::Apply(truth)));
        }
        actions.push(self.send(router, Message::Prepare(prepare)));
        actions
    }

    fn reported(
        &mut self,
        router: &str,
        number: u64,
        report: &RouterReport,
        now: Duration,
    ) -> Vec<Action> {
        if let Phase::Settling(settle, _) = &mut self.phase {
            settle.reported(router, number, report);
            self.finish_if_settled(now);
            return Vec::new();
        }
        let generation = self.generation();
        let Some(asked) = self.routers.get_mut(router) else {
            return Vec::new();
        };
        asked.question = asked.question.max(Some(report.question));
        asked.promised |= report.promised == Some(generation) && report.refusal.is_none();
        asked.behind = report.generation != Some(generation - 1);
        // The answer to another message, such as `undecided`, does not say why the promise was refused.
        if report.refusal.is_some() {
            asked.why.clone_from(&report.refusal);
        }
        self.commit_if_promised()
    }

    fn commit_if_promised(&mut self) -> Vec<Action> {
        let ready = self.listed
            && !self.routers.is_empty()
            && self.routers.values().all(|asked| asked.promised);
        if !ready || self.store_busy || !matches!(self.phase, Phase::Looking(_)) {
            return Vec::new();
        }
        let (Some(truth), Some((_, version))) = (self.committed_truth(), self.base.clone()) else {
            return Vec::new();
        };
        self.phase = Phase::Committing;
        self.store(Action::Replace(version, truth))
    }

    fn tick(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match &self.phase {
            Phase::Preparing => {
                if now >= self.store_limit {
                    let error = self
                        .store_error
                        .take()
                        .unwrap_or_else(|| "no answer".to_owned());
                    let left_prepared = self.sent.is_some();
                    return self.refuse_unprepared(RefusedBecause::Store(error), left_prepared);
                }
            }
            Phase::Looking(limit) => {
                if now >= *limit && !self.store_busy {
                    return self.abort_for_missing(now);
                }
                actions.extend(self.ask_missing());
                actions.extend(self.answer_questions());
            }
            Phase::Committing => actions.extend(self.answer_questions()),
            Phase::Ending => {
                if now >= self.store_limit {
                    return self.give_up();
                }
                actions.extend(self.answer_questions());
            }
            Phase::Settling(settle, _) => {
                let (truth, unsettled) = (settle.truth().clone(), settle.unsettled());
                for name in unsettled {
                    actions.push(self.send(&name, Message::Apply(truth.clone())));
                }
                self.finish_if_settled(now);
            }
            Phase::Finished(_) => {}
        }
        if !self.store_busy {
            let action = match &self.phase {
                Phase::Preparing | Phase::Ending => Some(Action::Read),
                Phase::Looking(_) | Phase::Settling(..) => Some(Action::List),
                Phase::Committing | Phase::Finished(_) => None,
            };
            actions.extend(action.into_iter().flat_map(|action| self.store(action)));
        }
        actions
    }

    fn ask_missing(&mut self) -> Vec<Action> {
        let missing = self.routers.iter().filter(|(_, asked)| !asked.promised);
        let names: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
        names
            .iter()
            .flat_map(|name| self.ask_promise(name))
            .collect()
    }

    fn answer_questions(&mut self) -> Vec<Action> {
        let generation = self.generation();
        let questions: Vec<(String, u64)> = self
            .routers
            .iter_mut()
            .filter_map(|(name, asked)| Some((name.clone(), asked.question.take()?)))
            .collect();
        let answer = |(name, question): (String, u64)| {
            self.send(
                &name,
                Message::Undecided(Undecided {
                    generation,
                    question,
                }),
            )
        };
        questions.into_iter().map(answer).collect()
    }
}
