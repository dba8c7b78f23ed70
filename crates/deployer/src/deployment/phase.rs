//! The phases of a deployment. A phase says what is true of servers and traffic, not which step runs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is true in this phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The active color is healthy and the plan is in the journal. No server was touched.
    Planned,
    /// The candidate is being started on the idle color, which may not stand in.
    Starting,
    /// The candidate is healthy.
    Healthy,
    /// The candidate passed every gate.
    Validated,
    /// The candidate has all traffic and bakes.
    Switched,
    /// The candidate has all traffic, finished its bake, and may stand in.
    Promoted,
    /// The candidate did not pass; traffic never moved.
    Refused,
    /// The candidate had traffic, and lost it to the previous release.
    RolledBack,
    /// Traffic could not be returned; a person is needed.
    Halted,
}

impl Phase {
    /// The phase that follows a success; `None` if this one is an end.
    #[must_use]
    pub fn on_success(self) -> Option<Self> {
        match self {
            Self::Planned => Some(Self::Starting),
            Self::Starting => Some(Self::Healthy),
            Self::Healthy => Some(Self::Validated),
            Self::Validated => Some(Self::Switched),
            Self::Switched => Some(Self::Promoted),
            Self::Promoted | Self::Refused | Self::RolledBack | Self::Halted => None,
        }
    }

    /// Whether the deployment is over.
    #[must_use]
    pub fn is_end(self) -> bool {
        self.on_success().is_none()
    }

    /// The phase's name in settings, files, and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RolledBack => "rolled_back",
            other => other.as_str(),
        }
    }

    /// The phase as it follows "is" or "was".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Validated => "validated",
            Self::Switched => "switched",
            Self::Promoted => "promoted",
            Self::Refused => "refused",
            Self::RolledBack => "rolled back",
            Self::Halted => "halted",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
