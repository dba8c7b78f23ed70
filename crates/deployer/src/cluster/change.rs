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

use std::time::Duration;

use crate::{
    cluster::{
        message::{Prepare, Release, RouterReport, Undecided},
        truth::{RouterFlags, Truth},
    },
    color::Color,
    ports::{PortError, RouterEntry, Version, WriteError},
};

mod decide;
mod fenced;
mod outcome;
mod settle;

pub use self::{
    decide::{Decide, DecideOutcome},
    fenced::FencedChange,
    outcome::{Outcome, RefusedBecause},
    settle::Settled,
};

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
