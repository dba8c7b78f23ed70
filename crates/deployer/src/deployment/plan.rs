//! What a deployment will do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    deployment::trace::DeploymentTrace,
    release::{HeldRelease, Release},
};

/// One deployment: which release goes to which color.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Names the deployment in the journal and in reports: the start in UTC with milliseconds, and the version.
    /// Two deployments that begin in the same second have different identifiers.
    pub id: String,
    /// The color that has the traffic when the deployment begins.
    pub active: Color,
    /// The color that receives the candidate.
    pub idle: Color,
    /// The release that the candidate must be.
    pub release: Release,
    /// When the deployment began.
    #[serde(default)]
    pub began: Option<Timestamp>,
    /// Whether the idle color could stand in before the deployment.
    #[serde(default)]
    pub idle_was_fit: bool,
    /// The release that the idle color held before the deployment; `None` if it is not known.
    #[serde(default)]
    pub idle_release: Option<HeldRelease>,
    /// Whether the idle color ran before the deployment.
    #[serde(default)]
    pub idle_ran: bool,
    /// The trace of the deployment; `None` if it is not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<DeploymentTrace>,
    /// Why a person deploys outside of the windows; `None` if the deployment obeys them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside_window: Option<String>,
}

impl Plan {
    /// Plans to put `release` on the color that is idle while `active` has the traffic.
    #[must_use]
    pub fn new(now: Timestamp, active: Color, release: Release) -> Self {
        Self {
            id: format!("{}-{}", now.strftime("%Y%m%dT%H%M%S.%3fZ"), release.version),
            active,
            idle: active.other(),
            release,
            began: Some(now),
            idle_was_fit: false,
            idle_release: None,
            idle_ran: false,
            trace: None,
            outside_window: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_puts_candidate_on_idle_color() {
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        for active in Color::BOTH {
            let plan = Plan::new(Timestamp::UNIX_EPOCH, active, release.clone());
            assert_ne!(plan.idle, plan.active);
            assert_eq!(plan.id, "19700101T000000.000Z-v2");
        }
    }
}
