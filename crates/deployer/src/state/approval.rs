//! The question of a deployment that waits for approval, and how it was decided.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{deployment::phase::Phase, state::lock_holder::LockHolder};

/// A deployment waits for approval: a part of its entry in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The phase that the deployment reaches after the approval.
    pub before: Phase,
    /// The SHA-256 digest of the evidence, in hexadecimal digits. An approval names it.
    pub evidence: String,
    /// When the question was asked.
    pub since: Timestamp,
    /// When the question expires.
    pub expires: Timestamp,
}

impl Waiting {
    /// Returns whether the deployer that asked is still at work. `holder` is the holder of the lock.
    ///
    /// A killed deployer leaves its question in the journal. The next deployer has the lock since a later time.
    #[must_use]
    pub fn is_live(&self, holder: Option<&LockHolder>) -> bool {
        holder.is_some_and(|holder| holder.deploys() && holder.since <= self.since)
    }
}

/// How a question was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalDecision {
    /// A person approved it.
    Approved,
    /// A person rejected it.
    Rejected,
    /// No person decided in time.
    Expired,
}

impl ApprovalDecision {
    /// The decision's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for ApprovalDecision {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_is_live_only_while_its_deployer_has_the_lock() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let waiting = Waiting {
            before: Phase::Switched,
            evidence: "ab".to_owned(),
            since: at(10),
            expires: at(20),
        };
        let holder = |command, since| LockHolder::this(command, at(since));
        assert!(waiting.is_live(Some(&holder("deploy v2", 5))));
        assert!(waiting.is_live(Some(&holder("recover", 10))));
        assert!(!waiting.is_live(Some(&holder("deploy v3", 11))));
        assert!(!waiting.is_live(Some(&holder("monitor", 5))));
        assert!(!waiting.is_live(None));
    }
}
