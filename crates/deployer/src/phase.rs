//! The phases of a deployment: states of the world, not steps of the program.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is true of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The active color is healthy and the plan is written down; no server was touched.
    Planned,
    /// The idle color is being replaced by the candidate and may not stand in.
    Starting,
    /// The candidate answers that it is healthy.
    Healthy,
    /// The candidate passed every gate.
    Validated,
    /// The candidate has all traffic and is being watched.
    Switched,
    /// The candidate has all traffic, was watched, and may stand in from now on.
    Promoted,
    /// The candidate was turned down; traffic never moved.
    Refused,
    /// The candidate had traffic, and lost it to the release before it.
    RolledBack,
    /// Traffic could not be put where it belongs; a person is needed.
    Halted,
}

/// Who has the traffic in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// The color that was active when the deployment began.
    Previous,
    /// The candidate.
    Candidate,
    /// Not known for certain.
    Unknown,
}

/// What became of the attempt to give traffic back after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    /// The router confirmed that the previous color has the traffic.
    Confirmed,
    /// The previous color is sick too, or the router did not confirm.
    Impossible,
}

impl Phase {
    /// The phase that follows when what this one was waiting for succeeded; none when it is an end.
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

    /// The phase that follows a failure, given whether traffic went back; none when it is an end.
    ///
    /// Before the switch there is nothing to give back, so the candidate is merely refused.
    #[must_use]
    pub fn on_failure(self, given_back: Return) -> Option<Self> {
        match (self, given_back) {
            (Self::Planned | Self::Starting | Self::Healthy | Self::Validated, _) => {
                Some(Self::Refused)
            }
            (Self::Switched, Return::Confirmed) => Some(Self::RolledBack),
            (Self::Switched, Return::Impossible) => Some(Self::Halted),
            (Self::Promoted | Self::Refused | Self::RolledBack | Self::Halted, _) => None,
        }
    }

    /// Who has the traffic.
    #[must_use]
    pub fn traffic(self) -> Traffic {
        match self {
            Self::Planned
            | Self::Starting
            | Self::Healthy
            | Self::Validated
            | Self::Refused
            | Self::RolledBack => Traffic::Previous,
            Self::Switched | Self::Promoted => Traffic::Candidate,
            Self::Halted => Traffic::Unknown,
        }
    }

    /// Whether the deployment is over.
    #[must_use]
    pub fn is_end(self) -> bool {
        self.on_success().is_none()
    }

    /// The phase as it is named in settings, files and events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RolledBack => "rolled_back",
            other => other.words(),
        }
    }

    /// The phase in words that fit behind "is" or "was".
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
        Failure(Return),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Success),
            1 => Just(Step::Failure(Return::Confirmed)),
            1 => Just(Step::Failure(Return::Impossible)),
        ]
    }

    /// Every phase that a deployment passes through when it meets these steps.
    fn walk(steps: &[Step]) -> Vec<Phase> {
        let mut passed = vec![Phase::Planned];
        for step in steps {
            let now = passed[passed.len() - 1];
            let next = match step {
                Step::Success => now.on_success(),
                Step::Failure(given_back) => now.on_failure(*given_back),
            };
            passed.extend(next);
        }
        passed
    }

    proptest! {
        #[test]
        fn every_deployment_ends_within_five_steps(steps in prop::collection::vec(any_step(), 5..9)) {
            let passed = walk(&steps);
            prop_assert!(passed[passed.len() - 1].is_end(), "{passed:?}");
            prop_assert!(passed.len() <= 6, "{passed:?}");
        }

        #[test]
        fn traffic_moves_only_after_every_gate_was_passed(steps in prop::collection::vec(any_step(), 0..9)) {
            let passed = walk(&steps);
            if let Some(moved) = passed.iter().position(|phase| phase.traffic() != Traffic::Previous) {
                prop_assert_eq!(passed[moved], Phase::Switched);
                prop_assert_eq!(passed[moved - 1], Phase::Validated);
            }
        }

        #[test]
        fn refused_means_that_traffic_never_moved(steps in prop::collection::vec(any_step(), 0..9)) {
            let passed = walk(&steps);
            if passed.contains(&Phase::Refused) {
                prop_assert!(passed.iter().all(|phase| phase.traffic() == Traffic::Previous), "{passed:?}");
            }
        }

        #[test]
        fn a_failure_never_leaves_the_candidate_in_charge(
            steps in prop::collection::vec(any_step(), 0..9),
            given_back in prop_oneof![Just(Return::Confirmed), Just(Return::Impossible)],
        ) {
            let passed = walk(&steps);
            if let Some(after) = passed[passed.len() - 1].on_failure(given_back) {
                prop_assert!(after.is_end());
                prop_assert_ne!(after.traffic(), Traffic::Candidate);
            }
        }

        #[test]
        fn an_end_stays_the_end(steps in prop::collection::vec(any_step(), 5..9), more in any_step()) {
            let mut longer = steps.clone();
            longer.push(more);
            prop_assert_eq!(walk(&steps), walk(&longer));
        }
    }
}
