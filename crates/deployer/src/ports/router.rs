//! Where traffic goes: what the router does, and the flags that it obeys.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;

use crate::{color::Color, ports::error::PortError};

/// Asks the router, and moves traffic.
#[async_trait]
pub trait Router: Send + Sync {
    /// Checks that the router sees the flags that this process sets. The error says what differs.
    async fn check_flags(&self) -> Result<(), PortError>;

    /// Returns the color that has the traffic by its flag, after the router has confirmed it.
    async fn active(&self) -> Result<Color, PortError>;

    /// Directs all traffic to `color` from the next request on, and waits until the router confirms it. Returns
    /// the color that had the traffic before.
    async fn switch_to(&self, color: Color) -> Result<Color, PortError>;

    /// Returns how many requests the router works on now, without this question.
    async fn in_flight(&self) -> Result<u64, PortError>;

    /// Returns the router's time limits from its configuration; `None` if this machine does not have the file.
    async fn limits(&self) -> Result<Option<RouterLimits>, PortError>;

    /// Returns which failed requests the router repeats, as it runs.
    async fn repeat(&self) -> Result<Repeat, PortError>;
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
