//! The deployer's side of a change: pure.
//!
//! [`FencedChange`] makes a change that could make two routers serve different colors, and [`Decide`] one that needs no
//! fence, or must not be refused, such as a roll-back. Both take what happened as [`Event`]s and return [`Action`]s. At most
//! one action for the store is in flight; messages to routers may be lost, and are repeated with each [`Event::Tick`].
//!
//! Rules that make the deployer's side safe; the tests show that each is needed:
//!
//! 1. Routers are listed only after the store confirmed the prepared change. A router that registers later reads it.
//! 2. The commit is written only when every listed router promised, and only on the version of the prepared change.
//! 3. The deployer answers `undecided` only until it knows the outcome, and counts 1.1 T from then. A tenth is the largest
//!    difference between the rates of two clocks.
//! 4. A closed router is settled only by its answer to a message that the deployer sent after it knew the outcome. An older
//!    report may be from before the router opened again.
//! 5. A write without an answer may land later. So a commit without an answer is read, and then aborted on the same version:
//!    one of the two wins.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    cluster::{
        message::{Prepare, Release, RouterReport, Undecided},
        truth::{Prepared, RouterFlags, Truth},
    },
    color::Color,
    ports::{PortError, RouterEntry, Version, WriteError},
};

mod decide;
mod settle;

pub use self::{
    decide::{Decide, DecideOutcome},
    settle::Settled,
};

use self::settle::Settle;

/// The time limits of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChangeLimits {
    /// T: [`RouterTiming::fence`](super::router_state::RouterTiming::fence).
    pub fence: Duration,
    /// How long routers may take to promise.
    pub promises: Duration,
    /// How long the deployer tries to learn or to write the outcome while the store does not answer.
    pub store: Duration,
}

/// Which flags a change sets. `None` keeps a flag as it is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlagEdit {
    /// The color that gets the traffic.
    pub active: Option<Color>,
    /// Whether blue may stand in.
    pub fit_blue: Option<bool>,
    /// Whether green may stand in.
    pub fit_green: Option<bool>,
    /// Whether the idle color gets copies of requests.
    pub shadow: Option<bool>,
}

/// A message to a router.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// `POST /prepare`.
    Prepare(Prepare),
    /// `POST /undecided`.
    Undecided(Undecided),
    /// `POST /release`.
    Release(Release),
    /// `POST /apply`.
    Apply(Truth),
}

/// What the caller does next. Its result comes back as an [`Event`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Read the truth: [`Event::Read`].
    Read,
    /// Write the truth if the store still holds the version: [`Event::Replaced`].
    Replace(Version, Truth),
    /// Read the list of routers: [`Event::Listed`].
    List,
    /// Send a message to a router of the newest list: [`Event::Reported`] or [`Event::Unreached`].
    Send {
        /// The router's name.
        router: String,
        /// Grows with each message of this change.
        number: u64,
        /// The message.
        message: Message,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The store answered [`Action::Read`].
    Read(Result<(Truth, Version), PortError>),
    /// The store answered [`Action::Replace`].
    Replaced(Result<Version, WriteError>),
    /// The store answered [`Action::List`].
    Listed(Result<Vec<RouterEntry>, PortError>),
    /// A router answered [`Action::Send`], also with a refusal.
    Reported {
        /// The router's name.
        router: String,
        /// The number of the message that it answers.
        number: u64,
        /// The answer.
        report: RouterReport,
    },
    /// A router did not answer [`Action::Send`].
    Unreached {
        /// The router's name.
        router: String,
        /// Why.
        error: PortError,
    },
    /// Time passed. The caller sends it about ten times in T.
    Tick,
}

/// Why a fenced change was refused. Traffic did not move.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RefusedBecause {
    /// Another change is prepared in the store.
    OtherPrepared(String),
    /// No router is registered.
    NoRouters,
    /// The router of this name did not promise, and why.
    NoPromise(String, String),
    /// Another writer decided over this change.
    Overruled,
    /// The store did not answer in time.
    Store(String),
}

/// How a fenced change ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The change is committed, and no router serves the old flags.
    Done {
        /// What was committed, or the newer truth that the store held when the deployer asked.
        truth: Truth,
        /// What became of each router.
        settled: Settled,
    },
    /// The change is not committed, and never will be.
    Refused {
        /// Why.
        because: Vec<RefusedBecause>,
        /// Whether the store may still hold the change as prepared. Agents abort it when they reach the store.
        left_prepared: bool,
    },
    /// The store holds a newer generation than this change's, so nothing is known of this change.
    Overtaken {
        /// The newer truth.
        truth: Truth,
    },
    /// The commit may have landed, or may still land: the store does not answer. The routers were released.
    Unknown {
        /// What the store's adapter said.
        error: String,
    },
}

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
            } => self.reported(router, number, &report, now),
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

    fn committed_truth(&self) -> Option<Truth> {
        let (truth, _) = self.base.as_ref()?;
        Some(truth.decide(truth.prepared.as_ref()?.flags))
    }

    fn aborted_truth(&self) -> Option<Truth> {
        let (truth, _) = self.base.as_ref()?;
        Some(truth.decide(truth.flags))
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
        };
        let behind = self.routers.get(router).is_some_and(|asked| asked.behind);
        let mut actions = Vec::new();
        if behind {
            actions.push(self.send(router, Message::Apply(truth)));
        }
        actions.push(self.send(router, Message::Prepare(prepare)));
        actions
    }

    fn reported(
        &mut self,
        router: String,
        number: u64,
        report: &RouterReport,
        now: Duration,
    ) -> Vec<Action> {
        if let Phase::Settling(settle, _) = &mut self.phase {
            settle.reported(&router, number, report);
            self.finish_if_settled(now);
            return Vec::new();
        }
        let generation = self.generation();
        let Some(asked) = self.routers.get_mut(&router) else {
            return Vec::new();
        };
        asked.question = asked.question.max(Some(report.question));
        asked.promised |= report.promised == Some(generation) && report.refusal.is_none();
        asked.behind = report.generation != Some(generation - 1);
        asked.why.clone_from(&report.refusal);
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

    fn ending(&mut self, now: Duration) {
        self.phase = Phase::Ending;
        self.store_limit = now + self.limits.store;
    }

    /// Writes the abort on the version of the prepared change.
    fn abort(&mut self, because: RefusedBecause, now: Duration) -> Vec<Action> {
        self.because.push(because);
        self.ending(now);
        let (Some(truth), Some((_, version))) = (self.aborted_truth(), self.base.clone()) else {
            return Vec::new();
        };
        self.store(Action::Replace(version, truth))
    }

    /// Learns the outcome from a read, or writes the abort if there is none yet.
    fn end_as_read(&mut self, truth: Truth, version: Version, now: Duration) -> Vec<Action> {
        let Some((base, _)) = self.base.clone() else {
            return Vec::new();
        };
        if truth.prepared.is_some() && truth.prepared == base.prepared {
            if let Some(error) = self.store_error.take().filter(|_| self.because.is_empty()) {
                self.because.push(RefusedBecause::Store(error));
            }
            self.base = Some((truth, version));
            let aborted = self.aborted_truth();
            let (Some(aborted), Some((_, version))) = (aborted, self.base.clone()) else {
                return Vec::new();
            };
            return self.store(Action::Replace(version, aborted));
        }
        let target = base.prepared.as_ref().map(|prepared| prepared.flags);
        let same_generation = truth.generation == self.generation();
        if self.commit_unknown && same_generation && target == Some(truth.flags) {
            return self.settle(Some(truth), None, now);
        }
        if self.commit_unknown && !same_generation {
            self.phase = Phase::Finished(Outcome::Overtaken {
                truth: truth.clone(),
            });
            return self.push(&truth);
        }
        let mut because = self.because.clone();
        if because.is_empty() {
            because.push(RefusedBecause::Overruled);
        }
        self.settle(Some(truth), Some(because), now)
    }

    fn push(&mut self, truth: &Truth) -> Vec<Action> {
        let names: Vec<String> = self.routers.keys().cloned().collect();
        names
            .iter()
            .map(|name| self.send(name, Message::Apply(truth.clone())))
            .collect()
    }

    /// From here the outcome is known: questions get no answer any more.
    fn settle(
        &mut self,
        truth: Option<Truth>,
        refused: Option<Vec<RefusedBecause>>,
        now: Duration,
    ) -> Vec<Action> {
        let Some(truth) = truth else {
            return Vec::new();
        };
        let names = self.routers.keys().cloned();
        let settle = Settle::new(
            truth.clone(),
            names,
            self.next_number + 1,
            now + self.limits.wait(),
        );
        self.phase = Phase::Settling(settle, refused);
        let actions = self.push(&truth);
        self.finish_if_settled(now);
        actions
    }

    fn finish_if_settled(&mut self, now: Duration) {
        let Phase::Settling(settle, refused) = &self.phase else {
            return;
        };
        let Some(settled) = settle.finished(now) else {
            return;
        };
        let outcome = match refused {
            Some(because) => Outcome::Refused {
                because: because.clone(),
                left_prepared: false,
            },
            None => Outcome::Done {
                truth: settle.truth().clone(),
                settled,
            },
        };
        self.phase = Phase::Finished(outcome);
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

    fn abort_for_missing(&mut self, now: Duration) -> Vec<Action> {
        let mut missing: Vec<RefusedBecause> = self
            .routers
            .iter()
            .filter(|(_, asked)| !asked.promised)
            .map(|(name, asked)| {
                let why = asked.why.clone().unwrap_or_else(|| "no answer".to_owned());
                RefusedBecause::NoPromise(name.clone(), why)
            })
            .collect();
        let last = missing
            .pop()
            .unwrap_or_else(|| match self.store_error.take() {
                Some(error) if !self.listed => RefusedBecause::Store(error),
                _ => RefusedBecause::NoRouters,
            });
        self.because = missing;
        self.abort(last, now)
    }

    /// Ends the fence without an outcome, so that the store's outage closes no router.
    fn give_up(&mut self) -> Vec<Action> {
        let error = self
            .store_error
            .take()
            .unwrap_or_else(|| "no answer".to_owned());
        let generation = self.generation();
        let names: Vec<String> = self.routers.keys().cloned().collect();
        let release = |name: &String| self.send(name, Message::Release(Release { generation }));
        let actions = names.iter().map(release).collect();
        let outcome = if self.commit_unknown {
            Outcome::Unknown { error }
        } else {
            let mut because = std::mem::take(&mut self.because);
            because.push(RefusedBecause::Store(error));
            Outcome::Refused {
                because,
                left_prepared: true,
            }
        };
        self.phase = Phase::Finished(outcome);
        actions
    }
}

impl ChangeLimits {
    /// Returns 1.1 T: after this time no router that promised serves the old flags.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.fence * 11 / 10
    }
}

impl FlagEdit {
    /// Returns `flags` with this edit.
    #[must_use]
    pub fn apply(self, flags: RouterFlags) -> RouterFlags {
        RouterFlags {
            active: self.active.unwrap_or(flags.active),
            fit_blue: self.fit_blue.unwrap_or(flags.fit_blue),
            fit_green: self.fit_green.unwrap_or(flags.fit_green),
            shadow: self.shadow.unwrap_or(flags.shadow),
        }
    }
}

impl fmt::Display for RefusedBecause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherPrepared(by) => write!(formatter, "another change is prepared: {by}"),
            Self::NoRouters => formatter.write_str("no router is registered in the store"),
            Self::NoPromise(router, why) => {
                write!(formatter, "router {router} did not promise: {why}")
            }
            Self::Overruled => {
                formatter.write_str("another deployer or an agent decided over this change")
            }
            Self::Store(error) => write!(formatter, "the store did not answer in time: {error}"),
        }
    }
}
