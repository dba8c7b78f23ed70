//! Decisions about a standby: its fit flag, and failover. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{color::Color, deployment::phase::Phase};

/// The last deployment that touched a server, and its phase; `None` before the first one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastDeployment {
    /// Its identifier and phase.
    pub deployment: Option<(String, Phase)>,
}

/// What the monitor remembers about one color, also across restarts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ColorMemory {
    /// It is down, and an alert was sent.
    pub down: bool,
    /// The last deployment at the time when the monitor removed the fit flag; `None` if it did not.
    pub flag_removed: Option<LastDeployment>,
}

/// What the monitor knows about a color when it decides.
#[derive(Debug, Clone, Copy)]
pub struct ColorView<'a> {
    /// It has the traffic.
    pub active: bool,
    /// It may stand in.
    pub fit: bool,
    /// It is up.
    pub up: bool,
    /// The last deployment in the journal.
    pub last_deployment: &'a LastDeployment,
}

/// What to do about a color's fit flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlagDecision {
    /// Remove it: the standby is down.
    Remove,
    /// Restore it: the standby is up again.
    Restore,
    /// Forget that it was removed: a deployment or a person changed traffic or the flag since.
    Forget,
    /// Leave it as it is.
    Keep,
}

impl ColorMemory {
    /// Decides about the fit flag. Only a flag that the monitor removed itself is restored, because only then
    /// the release is known to be proven.
    #[must_use]
    pub fn decide_flag(&self, view: ColorView<'_>) -> FlagDecision {
        let ours = self.flag_removed.as_ref() == Some(view.last_deployment);
        if view.fit && !view.active && !view.up {
            return FlagDecision::Remove;
        }
        if self.flag_removed.is_none() {
            return FlagDecision::Keep;
        }
        if view.active || view.fit || !ours {
            return FlagDecision::Forget;
        }
        if view.up {
            FlagDecision::Restore
        } else {
            FlagDecision::Keep
        }
    }

    /// Returns whether the color has traffic or is a standby. Any other color may be down.
    #[must_use]
    pub fn is_relevant(&self, view: ColorView<'_>) -> bool {
        view.active || view.fit || self.flag_removed.as_ref() == Some(view.last_deployment)
    }
}

/// The least time between two starts of a standby.
const BETWEEN_STARTS: Duration = Duration::from_mins(1);

/// Returns whether to start a standby that is down, if it does not run. `since_start` is the time since the monitor
/// last started it; `None` if it never did.
#[must_use]
pub fn standby_needs_start(up: bool, since_start: Option<Duration>) -> bool {
    !up && since_start.is_none_or(|since| since >= BETWEEN_STARTS)
}

/// Returns the color that traffic moves to because the active color is down; `None` if traffic stays.
#[must_use]
pub fn failover(
    active: Color,
    active_up: bool,
    standby_fit: bool,
    standby_up: bool,
) -> Option<Color> {
    (!active_up && standby_fit && standby_up).then(|| active.other())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standby_is_started_at_most_once_a_minute() {
        assert!(standby_needs_start(false, None));
        assert!(standby_needs_start(false, Some(BETWEEN_STARTS)));
        assert!(!standby_needs_start(false, Some(BETWEEN_STARTS / 2)));
        assert!(!standby_needs_start(true, None));
    }

    fn last_deployment(id: &str, phase: Phase) -> LastDeployment {
        LastDeployment {
            deployment: Some((id.to_owned(), phase)),
        }
    }

    fn flag_removed(last_deployment: &LastDeployment) -> ColorMemory {
        ColorMemory {
            down: true,
            flag_removed: Some(last_deployment.clone()),
        }
    }

    #[test]
    fn unhealthy_standby_loses_fit_flag_until_healthy() {
        let now = last_deployment("a", Phase::Promoted);
        let view = |fit, up| ColorView {
            active: false,
            fit,
            up,
            last_deployment: &now,
        };
        assert_eq!(
            ColorMemory::default().decide_flag(view(true, true)),
            FlagDecision::Keep
        );
        assert_eq!(
            ColorMemory::default().decide_flag(view(true, false)),
            FlagDecision::Remove
        );
        assert_eq!(
            flag_removed(&now).decide_flag(view(false, false)),
            FlagDecision::Keep
        );
        assert_eq!(
            flag_removed(&now).decide_flag(view(false, true)),
            FlagDecision::Restore
        );
    }

    #[test]
    fn fit_flag_removed_by_others_is_not_restored() {
        let now = last_deployment("a", Phase::RolledBack);
        let view = ColorView {
            active: false,
            fit: false,
            up: true,
            last_deployment: &now,
        };
        assert_eq!(ColorMemory::default().decide_flag(view), FlagDecision::Keep);
        assert!(!ColorMemory::default().is_relevant(view));
    }

    #[test]
    fn removed_fit_flag_is_forgotten_after_a_deployment() {
        let then = last_deployment("a", Phase::Promoted);
        for now in [
            last_deployment("a", Phase::RolledBack),
            last_deployment("b", Phase::Refused),
        ] {
            let view = ColorView {
                active: false,
                fit: false,
                up: true,
                last_deployment: &now,
            };
            assert_eq!(flag_removed(&then).decide_flag(view), FlagDecision::Forget);
        }
        let view = ColorView {
            active: true,
            fit: false,
            up: true,
            last_deployment: &then,
        };
        assert_eq!(flag_removed(&then).decide_flag(view), FlagDecision::Forget);
    }

    #[test]
    fn fit_flag_of_unhealthy_active_color_is_kept() {
        let now = last_deployment("a", Phase::Promoted);
        let view = ColorView {
            active: true,
            fit: true,
            up: false,
            last_deployment: &now,
        };
        assert_eq!(ColorMemory::default().decide_flag(view), FlagDecision::Keep);
        assert!(ColorMemory::default().is_relevant(view));
    }

    #[test]
    fn fit_flag_removed_before_first_deployment_is_remembered() {
        let memory = flag_removed(&LastDeployment::default());
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<ColorMemory>(&text).unwrap(), memory);
    }

    #[test]
    fn failover_requires_a_healthy_fit_standby() {
        assert_eq!(failover(Color::Blue, false, true, true), Some(Color::Green));
        assert_eq!(failover(Color::Blue, true, true, true), None);
        assert_eq!(failover(Color::Blue, false, false, true), None);
        assert_eq!(failover(Color::Blue, false, true, false), None);
    }
}
