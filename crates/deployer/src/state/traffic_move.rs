//! A move of traffic outside of a deployment: an entry of the journal.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{color::Color, state::action::Action};

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
            at: Timestamp::UNIX_EPOCH,
            from_was_fit: true,
        }
    }

    /// The command that caused it.
    #[must_use]
    pub fn words(&self) -> String {
        match self.action {
            Action::Switched => format!("`deployer switch {}`", self.to),
            Action::FailedOver => format!("the failover to {}", self.to),
            _ => "`deployer rollback`".to_owned(),
        }
    }
}
