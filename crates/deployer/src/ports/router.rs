//! Where traffic goes: what the router does, and the flags that it obeys.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{color::Color, ports::error::PortError};

/// Asks the router, and moves traffic.
#[async_trait]
pub trait Router: Send + Sync {
    /// Checks that the router sees the flags that this process sets. The error says what differs.
    async fn check_flags(&self) -> Result<(), PortError>;

    /// Returns the color that has the traffic by its flag, after the router has confirmed it.
    async fn active(&self) -> Result<Color, PortError>;

    /// Directs all traffic to `color` from the next request on, and waits until the router confirms it. If there are
    /// several routers, `silent` says what happens when one of them does not answer.
    async fn switch_to(&self, color: Color, silent: OnSilentRouter) -> Result<Switched, PortError>;

    /// Returns how many requests the router works on now, without this question.
    async fn in_flight(&self) -> Result<u64, PortError>;

    /// Returns the router's time limits from its configuration; `None` if this machine does not have the file.
    async fn limits(&self) -> Result<Option<RouterLimits>, PortError>;

    /// Returns which failed requests the router repeats, as it runs.
    async fn repeat(&self) -> Result<Repeat, PortError>;

    /// Returns what each of several routers says of itself. A single router is not listed.
    async fn routers(&self) -> Result<Vec<RouterStatus>, PortError> {
        Ok(Vec::new())
    }

    /// Removes one of several routers, which is gone, from the list of those that take part in a switch. Fails if it
    /// answers.
    async fn remove(&self, name: &str) -> Result<(), PortError> {
        Err(PortError::Invalid(format!(
            "there is one router, so {name:?} cannot be removed: `routers.store` is not set"
        )))
    }

    /// Aborts a change of the flags that a deployer prepared and did not decide, and returns who prepared it. Only the
    /// holder of the lock calls this, so that deployer is dead. With a single router no change is prepared.
    async fn abort_prepared(&self) -> Result<Option<String>, PortError> {
        Ok(None)
    }
}

/// What a move of traffic does if one of several routers does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSilentRouter {
    /// Traffic stays where it is at every router, and the move fails. It can wait.
    Refuse,
    /// The other routers move traffic at once, and the move succeeds: a rollback or a failover cannot wait.
    MoveOthers,
}

/// A move of traffic that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// The color that had the traffic before.
    pub displaced: Color,
    /// The routers that did not confirm the move.
    pub unconfirmed: Vec<UnconfirmedRouter>,
}

impl Switched {
    /// A move that every router confirmed.
    #[must_use]
    pub fn confirmed(displaced: Color) -> Self {
        Self {
            displaced,
            unconfirmed: Vec::new(),
        }
    }
}

/// A router that did not confirm a move of traffic in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnconfirmedRouter {
    /// The router's name.
    pub name: String,
    /// Whether it had promised to close itself. If not, it may still send requests to the color that lost the traffic.
    pub fenced: bool,
}

impl UnconfirmedRouter {
    /// Says which routers did not confirm, and what that means; `None` if all did.
    #[must_use]
    pub fn in_words(unconfirmed: &[Self]) -> Option<String> {
        let words: Vec<String> = unconfirmed.iter().map(ToString::to_string).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

impl fmt::Display for UnconfirmedRouter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, fenced } = self;
        let meaning = if *fenced {
            "it had promised to close itself, and its time is over"
        } else {
            "it may still send requests to the color that lost the traffic"
        };
        write!(
            formatter,
            "router {name} did not confirm the move: {meaning}"
        )
    }
}

/// What one of several routers says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouterStatus {
    /// The router's name.
    pub name: String,
    /// The newest generation of the flags that its nginx obeys; `None` if it is unknown.
    pub generation: Option<u64>,
    /// Whether it serves clients; `None` if it does not answer.
    pub open: Option<bool>,
    /// The color that its nginx names as active; `None` if its nginx does not answer.
    pub active: Option<Color>,
    /// The requests that its nginx works on; `None` if its nginx does not answer.
    pub in_flight: Option<u64>,
    /// Why it cannot take part in a switch; `None` if it can.
    pub problem: Option<String>,
}

/// Reads and sets the flags, without asking the router. They alone decide where traffic goes.
#[async_trait]
pub trait Flags: Send + Sync {
    /// Returns the color that has the traffic.
    async fn active(&self) -> Result<Color, PortError>;

    /// Returns whether `color` may stand in for the other color.
    async fn is_fit(&self, color: Color) -> Result<bool, PortError>;

    /// Sets whether `color` may stand in for the other color.
    async fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError>;

    /// Returns whether the idle color receives a copy of each client request.
    async fn is_shadow(&self) -> Result<bool, PortError>;

    /// Sets whether the idle color receives a copy of each client request.
    async fn set_shadow(&self, on: bool) -> Result<(), PortError>;
}

/// Which failed requests the router repeats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repeat {
    /// Every request, also one that a color had received.
    Always,
    /// Only a request of which no color received anything.
    UnlessSent,
}

impl Repeat {
    /// Both choices.
    pub const ALL: [Self; 2] = [Self::Always, Self::UnlessSent];
}

impl fmt::Display for Repeat {
    /// As in the settings, and as the router answers.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Always => "always",
            Self::UnlessSent => "unless_sent",
        })
    }
}

/// Time limits of the router on the paths that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouterLimits {
    /// The shortest time that the router waits for a response.
    pub read: Duration,
    /// The longest time that the router waits for a response.
    pub longest_read: Duration,
    /// After this time the router tries no other server; `None` if it always does.
    pub next_upstream: Option<Duration>,
    /// How long the router keeps an idle connection to a server open; `None` if it keeps none.
    pub upstream_idle: Option<Duration>,
}
