//! What the history records.

use serde::{Deserialize, Serialize};

use crate::deployment::phase::Phase;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A deployment ended: the candidate has the traffic.
    Promoted,
    /// A deployment ended: traffic never moved.
    Refused,
    /// A deployment ended, or was reverted later: the previous release has the traffic.
    RolledBack,
    /// A deployment ended: a person is needed.
    Halted,
    /// A person moved traffic.
    Switched,
    /// `deployer monitor` moved traffic away from an active color that was down.
    FailedOver,
    /// The idle color holds the release again that it held before a deployment that failed.
    Restored,
    /// The idle color could not get that release back.
    NotRestored,
    /// A color was stopped, which interrupted requests.
    Stopped,
    /// A person let a color stand in.
    StandInOn,
    /// A person let a color stand in no more.
    StandInOff,
}

impl Action {
    /// The action that ends a deployment in this phase; `None` if the phase is no end.
    #[must_use]
    pub fn of(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Promoted => Some(Self::Promoted),
            Phase::Refused => Some(Self::Refused),
            Phase::RolledBack => Some(Self::RolledBack),
            Phase::Halted => Some(Self::Halted),
            Phase::Planned
            | Phase::Starting
            | Phase::Healthy
            | Phase::Validated
            | Phase::Switched => None,
        }
    }

    /// The name of the action.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Promoted => "promoted",
            Self::Refused => "refused",
            Self::RolledBack => "rolled back",
            Self::Halted => "halted",
            Self::Switched => "switched",
            Self::FailedOver => "failed over",
            Self::Restored => "restored",
            Self::NotRestored => "not restored",
            Self::Stopped => "stopped",
            Self::StandInOn => "stand-in on",
            Self::StandInOff => "stand-in off",
        }
    }
}
