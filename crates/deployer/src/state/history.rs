//! The history: one line for each action that concerns traffic.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    state::{action::Action, lock_holder::current_user, traffic_move::TrafficMove},
};

/// One line of the history. Times are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub action: Action,
    /// The deployment that it ended or reverted; `None` if there was none.
    pub id: Option<String>,
    /// A deployment's candidate, or the color that received traffic.
    pub color: Color,
    /// The version of that color, if it is known.
    pub version: Option<String>,
    /// The model's digest, if it is known.
    pub digest: Option<String>,
    /// The duration of the deployment in seconds; `None` if there was none.
    pub seconds: Option<f64>,
    /// The OpenTelemetry trace of the deployment; `None` if it was not traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// Why a person deployed outside of the windows, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside_window: Option<String>,
    /// Who did it: `user@host` for a command, `NAME (page)` for the page.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

impl HistoryEntry {
    /// The end of the deployment `plan`, which reached `phase` at `at`; `None` if `phase` is no end.
    #[must_use]
    pub fn of_end(plan: &Plan, phase: Phase, at: Timestamp, reason: Option<&str>) -> Option<Self> {
        let seconds = plan
            .began
            .map(|began| at.duration_since(began).as_secs_f64());
        Some(Self {
            at,
            action: Action::of(phase)?,
            id: Some(plan.id.clone()),
            color: plan.idle,
            version: Some(plan.release.version.clone()),
            digest: plan.release.digest.clone(),
            seconds,
            trace: plan.trace.as_ref().map(|trace| trace.id.clone()),
            outside_window: plan.outside_window.clone(),
            by: current_user(),
            reason: reason.map(str::to_owned),
        })
    }

    /// A move of traffic outside of a deployment, completed at `at`. `version` is what the color that receives the
    /// traffic serves.
    #[must_use]
    pub fn of_move(traffic_move: &TrafficMove, at: Timestamp, version: Option<String>) -> Self {
        Self {
            at,
            action: traffic_move.action,
            id: None,
            color: traffic_move.to,
            version,
            digest: None,
            seconds: None,
            trace: None,
            outside_window: None,
            by: traffic_move.by.clone(),
            reason: Some(traffic_move.reason.clone()),
        }
    }

    /// An action of the deployer on a color that moved no traffic.
    #[must_use]
    pub fn of_color(
        action: Action,
        color: Color,
        version: Option<String>,
        at: Timestamp,
        reason: String,
    ) -> Self {
        Self {
            at,
            action,
            id: None,
            color,
            version,
            digest: None,
            seconds: None,
            trace: None,
            outside_window: None,
            by: current_user(),
            reason: Some(reason),
        }
    }
}

/// What was done since the end of the deployment `plan`; nothing if the history does not have its end.
pub(crate) fn actions_since_end<'a>(
    history: &'a [HistoryEntry],
    plan: &Plan,
) -> impl Iterator<Item = Action> + use<'a> {
    let is_end = |entry: &HistoryEntry| entry.id.as_ref() == Some(&plan.id);
    let end = history.iter().rposition(is_end);
    let since = end.map_or(&[][..], |end| &history[end + 1..]);
    since.iter().map(|entry| entry.action)
}

/// A history that was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History {
    /// The entries, oldest first.
    pub entries: Vec<HistoryEntry>,
    /// The numbers of invalid lines, counted from 1: torn by a full disk or a power cut, or edited.
    pub torn: Vec<usize>,
}
