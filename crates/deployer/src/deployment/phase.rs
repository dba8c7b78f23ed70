//! The phases of a deployment. A phase is a state of the world, not a step of the program.

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

/// The color that has the traffic in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficOwner {
    /// The color that was active when the deployment began.
    Previous,
    /// The candidate.
    Candidate,
    /// Unknown.
    Unknown,
}

/// Whether traffic went back after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnResult {
    /// The router confirmed that the previous color has the traffic.
    Confirmed,
    /// The previous color is sick too, or the router did not confirm.
    Impossible,
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

    /// The phase that follows a failure; `None` if this one is an end.
    ///
    /// Before the switch traffic has not moved, so the candidate is refused.
    #[must_use]
    pub fn on_failure(self, returned: ReturnResult) -> Option<Self> {
        match (self, returned) {
            (Self::Planned | Self::Starting | Self::Healthy | Self::Validated, _) => {
                Some(Self::Refused)
            }
            (Self::Switched, ReturnResult::Confirmed) => Some(Self::RolledBack),
            (Self::Switched, ReturnResult::Impossible) => Some(Self::Halted),
            (Self::Promoted | Self::Refused | Self::RolledBack | Self::Halted, _) => None,
        }
    }

    /// The color that has the traffic in this phase.
    #[must_use]
    pub fn traffic(self) -> TrafficOwner {
        match self {
            Self::Planned
            | Self::Starting
            | Self::Healthy
            | Self::Validated
            | Self::Refused
            | Self::RolledBack => TrafficOwner::Previous,
            Self::Switched | Self::Promoted => TrafficOwner::Candidate,
            Self::Halted => TrafficOwner::Unknown,
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
            other => other.words(),
        }
    }

    /// The phase in words that fit after "is" or "was".
    #[must_use]
    pub fn words(self) -> &'static str {
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
        formatter.pad(self.words())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Success,
        Failure(ReturnResult),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Success),
            1 => Just(Step::Failure(ReturnResult::Confirmed)),
            1 => Just(Step::Failure(ReturnResult::Impossible)),
        ]
    }

    /// Returns every phase of a deployment that meets these steps.
    fn walk(steps: &[Step]) -> Vec<Phase> {
        let mut passed = vec![Phase::Planned];
        for step in steps {
            let now = passed[passed.len() - 1];
            let next = match step {
                Step::Success => now.on_success(),
                Step::Failure(returned) => now.on_failure(*returned),
            };
            passed.extend(next);
        }
        passed
    }

    proptest! {
        #[test]
        fn deployment_ends_within_five_steps(steps in prop::collection::vec(any_step(), 5..9)) {
            let passed = walk(&steps);
            prop_assert!(passed[passed.len() - 1].is_end(), "{passed:?}");
            prop_assert!(passed.len() <= 6, "{passed:?}");
        }

        #[test]
        fn traffic_moves_only_after_validation(steps in prop::collection::vec(any_step(), 0..9)) {
            let passed = walk(&steps);
            if let Some(moved) = passed.iter().position(|phase| phase.traffic() != TrafficOwner::Previous) {
                prop_assert_eq!(passed[moved], Phase::Switched);
                prop_assert_eq!(passed[moved - 1], Phase::Validated);
            }
        }

        #[test]
        fn refused_deployment_never_moved_traffic(steps in prop::collection::vec(any_step(), 0..9)) {
            let passed = walk(&steps);
            if passed.contains(&Phase::Refused) {
                prop_assert!(passed.iter().all(|phase| phase.traffic() == TrafficOwner::Previous), "{passed:?}");
            }
        }

        #[test]
        fn failure_never_leaves_traffic_on_candidate(
            steps in prop::collection::vec(any_step(), 0..9),
            returned in prop_oneof![Just(ReturnResult::Confirmed), Just(ReturnResult::Impossible)],
        ) {
            let passed = walk(&steps);
            if let Some(after) = passed[passed.len() - 1].on_failure(returned) {
                prop_assert!(after.is_end());
                prop_assert_ne!(after.traffic(), TrafficOwner::Candidate);
            }
        }

        #[test]
        fn ended_deployment_stays_ended(steps in prop::collection::vec(any_step(), 5..9), more in any_step()) {
            let mut longer = steps.clone();
            longer.push(more);
            prop_assert_eq!(walk(&steps), walk(&longer));
        }
    }
}
