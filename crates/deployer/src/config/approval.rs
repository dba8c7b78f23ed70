//! Approval of a deployment by a person.

use std::time::Duration;

use serde::Deserialize;

use crate::deployment::phase::Phase;

/// Where a deployment waits for approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalPoint {
    /// Before the switch.
    Switched,
    /// After the bake, before the promotion.
    Promoted,
}

impl ApprovalPoint {
    /// The phase that the deployment reaches after the approval.
    #[must_use]
    pub fn phase(self) -> Phase {
        match self {
            Self::Switched => Phase::Switched,
            Self::Promoted => Phase::Promoted,
        }
    }
}

/// Approval of a deployment by a person.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalSettings {
    /// Where a deployment waits; empty for nowhere.
    pub before: Vec<ApprovalPoint>,
    /// How long a question waits for a decision.
    #[serde(with = "humantime_serde")]
    pub expires: Duration,
    /// How old the verdicts of the gates may be at the switch.
    #[serde(with = "humantime_serde")]
    pub fresh: Duration,
}

impl ApprovalSettings {
    /// Whether a deployment waits at this point.
    #[must_use]
    pub fn is_needed(&self, point: ApprovalPoint) -> bool {
        self.before.contains(&point)
    }
}
