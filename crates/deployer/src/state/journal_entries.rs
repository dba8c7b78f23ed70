//! What the journal says.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    monitor::standby::LastDeployment,
    state::{
        action::Action,
        approval::Waiting,
        history::{HistoryEntry, actions_since_end},
        traffic_move::TrafficMove,
    },
};

/// The entries of the journal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalEntries {
    /// The last deployment; `None` if nothing was ever deployed.
    pub deployment: Option<DeploymentEntry>,
    /// The move of traffic that was begun and not finished. It may begin while the deployment is unfinished.
    pub traffic_move: Option<TrafficMove>,
}

impl JournalEntries {
    /// The deployment, if it was begun and not ended.
    #[must_use]
    pub fn unfinished_deployment(&self) -> Option<&DeploymentEntry> {
        self.deployment.as_ref().filter(|it| !it.phase.is_end())
    }

    /// Whether the last deployment was rolled back to `active`.
    #[must_use]
    pub fn is_rolled_back_to(&self, active: Color) -> bool {
        let last = self.deployment.as_ref();
        last.is_some_and(|it| it.phase == Phase::RolledBack && it.plan.active == active)
    }

    /// Whether nothing is left to roll back: the last deployment was rolled back to `active`, and the standby, which reports
    /// the version `standby`, got back the release that it held before. That release may have the candidate's version. Then
    /// `history` tells them apart. A standby with the candidate lost its traffic by a switch or a failover, and can take it
    /// again.
    #[must_use]
    pub fn nothing_to_roll_back(
        &self,
        history: &[HistoryEntry],
        active: Color,
        standby: Option<&str>,
    ) -> bool {
        let (Some(last), Some(standby)) = (&self.deployment, standby) else {
            return false;
        };
        let is_restored =
            || actions_since_end(history, &last.plan).any(|action| action == Action::Restored);
        let got_back = standby != last.plan.release.version || is_restored();
        self.is_rolled_back_to(active) && got_back
    }

    /// The last deployment that touched a server.
    #[must_use]
    pub fn last_deployment(&self) -> LastDeployment {
        let last = self.deployment.as_ref();
        last.map(DeploymentEntry::last_deployment)
            .unwrap_or_default()
    }
}

/// A deployment in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentEntry {
    /// The deployment.
    pub plan: Plan,
    /// The last phase that it reached.
    pub phase: Phase,
    /// When.
    pub since: Timestamp,
    /// Why it ended, if it did.
    pub reason: Option<String>,
    /// Who ended it, if that was not the user of the deployer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The question for approval that the deployment waits for. A killed deployer leaves it: see [`Waiting::is_live`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The last deployment before this one, as long as this one has touched no server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<LastDeployment>,
}

impl DeploymentEntry {
    /// The last deployment that touched a server: this one, or the one before.
    #[must_use]
    pub fn last_deployment(&self) -> LastDeployment {
        self.before.clone().unwrap_or_else(|| LastDeployment {
            deployment: Some((self.plan.id.clone(), self.phase)),
        })
    }

    /// The end of the deployment for the history; `None` if it has not ended.
    pub(super) fn end(&self) -> Option<HistoryEntry> {
        let reason = self.reason.as_deref();
        let end = HistoryEntry::of_end(&self.plan, self.phase, self.since, reason)?;
        Some(HistoryEntry {
            by: self.by.clone().unwrap_or(end.by),
            ..end
        })
    }
}
