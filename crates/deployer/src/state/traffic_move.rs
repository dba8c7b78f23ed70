//! A move of traffic outside of a deployment: an entry of the journal.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    state::{action::Action, lock_holder::current_user},
};

/// A move of traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficMove {
    /// The action of the history that it becomes.
    pub action: Action,
    /// The color that has the traffic.
    pub from: Color,
    /// The color that receives it; the same color if a person confirms where traffic is.
    pub to: Color,
    /// Why.
    pub reason: String,
    /// Who wants it: `user@host` for a command, `NAME (page)` for the page.
    #[serde(default = "current_user")]
    pub by: String,
    /// When it was planned.
    pub at: Timestamp,
    /// Whether `from` had its fit flag.
    pub from_was_fit: bool,
}

impl TrafficMove {
    /// A switch to `color` at the beginning of 1970.
    #[cfg(test)]
    pub(crate) fn switch_to(color: Color) -> Self {
        Self {
            action: Action::Switched,
            from: color.other(),
            to: color,
            reason: "by hand".to_owned(),
            by: current_user(),
            at: Timestamp::UNIX_EPOCH,
            from_was_fit: true,
        }
    }
}

/// The command that caused it.
impl fmt::Display for TrafficMove {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.action {
            Action::Switched => write!(formatter, "`deployer switch {}`", self.to),
            Action::FailedOver => write!(formatter, "the failover to {}", self.to),
            _ => formatter.write_str("`deployer rollback`"),
        }
    }
}
