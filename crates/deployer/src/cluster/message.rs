//! What the deployer and the agents of the routers say to each other, as JSON over HTTP.
//!
//! | Request to an agent | Body | Answer |
//! |---|---|---|
//! | `GET /state` | | [`RouterReport`] |
//! | `POST /prepare` | [`Prepare`] | [`RouterReport`] |
//! | `POST /undecided` | [`Undecided`] | [`RouterReport`] |
//! | `POST /release` | [`Release`] | [`RouterReport`] |
//! | `POST /apply` | [`Truth`](super::Truth) | [`RouterReport`], after the router's own nginx confirmed the flags |
//! | `GET /log/access`, `/log/error`, `/log/shadow` with `?after=BYTES` | | the bytes of the log from there on, at most 4 MiB; the header `x-log-length` has the length of the log |
//! | `GET /control/...` | | what the control port of the router's nginx answers |
//!
//! Each request carries `Authorization: Bearer TOKEN`. An agent that refuses a message answers 409 with its report, whose
//! `refusal` says why.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{cluster::truth::RouterFlags, color::Color};

/// Asks a router to promise that it closes itself unless it keeps hearing that the change is undecided.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepare {
    /// The generation that will decide the change.
    pub generation: u64,
    /// The flags if it is committed.
    pub flags: RouterFlags,
    /// The color that the router must reach before it promises; `None` if no color gets traffic by the change.
    pub must_reach: Option<Color>,
    /// T of the deployer, which waits a tenth longer for a silent router. A router with a longer one refuses.
    #[serde(with = "humantime_serde")]
    pub fence: Duration,
}

/// Answers a router's question: the change was undecided when the router's question arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undecided {
    /// The generation that will decide the change.
    pub generation: u64,
    /// [`RouterReport::question`] that this answers.
    pub question: u64,
}

/// Ends the fence of a change that the deployer gives up because it can no longer write to the store. The router keeps its
/// flags until it reads a newer generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The generation that would have decided the change.
    pub generation: u64,
}

/// What a router says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RouterReport {
    /// The router's name.
    pub name: String,
    /// The number of this start of the agent. A promise does not outlive it.
    pub incarnation: u64,
    /// The newest generation that its nginx obeys; `None` before the agent first read the truth.
    pub generation: Option<u64>,
    /// The generation that it promised for, until that is decided.
    pub promised: Option<u64>,
    /// Whether it serves clients.
    pub open: bool,
    /// The flags that its nginx obeys; `None` before the agent first read the truth.
    pub flags: Option<RouterFlags>,
    /// The color that its nginx names as active; `None` if its nginx does not answer.
    pub active: Option<Color>,
    /// The requests that its nginx works on.
    pub in_flight: Option<u64>,
    /// A question of this agent, issued with this report. [`Undecided`] answers it.
    pub question: u64,
    /// Why it refused the message that this report answers.
    pub refusal: Option<String>,
}
