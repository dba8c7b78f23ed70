//! Decides how a deployment ends. Pure.

use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
};

/// Where the traffic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// On the color that was active when the deployment began.
    Previous,
    /// On the candidate's color.
    Candidate,
    /// The flag names the candidate's color, and the router does not confirm it: clients may reach both colors.
    Mixed,
    /// The router does not answer, or was not asked.
    Unknown,
}

impl Traffic {
    /// Traffic that is on `color` and that the router confirmed.
    #[must_use]
    pub fn on(color: Color, plan: &Plan) -> Self {
        if color == plan.idle {
            Self::Candidate
        } else {
            Self::Previous
        }
    }
}

/// How a deployment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ended before; nothing is to do.
    Keep,
    /// The candidate did not pass. Traffic stays where it is.
    Refuse,
    /// Traffic returns to the previous color, or is back there already.
    RollBack,
    /// Traffic stays where it is, and a person is needed.
    Halt,
    /// The candidate keeps the traffic.
    Promote,
}

impl Ending {
    /// The phase in which a deployment is after this end; `None` if its phase does not change.
    #[must_use]
    pub fn phase(self) -> Option<Phase> {
        match self {
            Self::Keep => None,
            Self::Refuse => Some(Phase::Refused),
            Self::RollBack => Some(Phase::RolledBack),
            Self::Halt => Some(Phase::Halted),
            Self::Promote => Some(Phase::Promoted),
        }
    }

    /// Returns whether the candidate of a deployment that ended from `phase` must be stopped.
    ///
    /// In the phase `Planned` the idle color still runs its earlier release. After a halt the candidate may have
    /// the only traffic.
    #[must_use]
    pub fn stops_candidate(self, phase: Phase) -> bool {
        match self {
            Self::Refuse | Self::RollBack => phase != Phase::Planned,
            Self::Keep | Self::Halt | Self::Promote => false,
        }
    }
}

/// Returns the end of a deployment that does not go on.
///
/// `phase` is the last phase that it reached. `candidate_proven` says whether the candidate finished its bake.
/// `previous_healthy` says whether the previous color can take the traffic. `None` means unknown.
///
/// | Phase | Traffic | Ending |
/// |---|---|---|
/// | an end | any | `Keep` |
/// | `Planned` | `Previous`, `Candidate`, `Unknown` | `Refuse` |
/// | `Starting`, `Healthy` | `Previous`, `Unknown` | `Refuse` |
/// | `Starting`, `Healthy` | `Candidate` | return |
/// | `Validated` | `Previous` | `Refuse` |
/// | `Validated` | `Candidate`, `Unknown` | return |
/// | `Switched` | `Candidate`, and the candidate is proven | `Promote` |
/// | `Switched` | any other | return |
/// | any but an end | `Mixed` | return |
///
/// "Return" is `Halt` if the previous color is known to be unhealthy, and `RollBack` otherwise.
///
/// - `Planned`: no server was touched, so the idle color still runs its earlier release. A person who moved
///   traffic there sent it to a release that this deployment says nothing about.
/// - `Starting`, `Healthy`: only a person moves traffic now, by the flag. The candidate has not passed its gates,
///   so it loses the traffic. An unreachable router does not mean that traffic moved.
/// - `Validated`: the next step is the switch. A router that does not answer may have obeyed.
#[must_use]
pub fn ending(
    phase: Phase,
    traffic: Traffic,
    candidate_proven: Option<bool>,
    previous_healthy: Option<bool>,
) -> Ending {
    match (phase, traffic) {
        (Phase::Promoted | Phase::Refused | Phase::RolledBack | Phase::Halted, _) => Ending::Keep,
        (Phase::Planned, Traffic::Previous | Traffic::Candidate | Traffic::Unknown)
        | (Phase::Starting | Phase::Healthy, Traffic::Previous | Traffic::Unknown)
        | (Phase::Validated, Traffic::Previous) => Ending::Refuse,
        (Phase::Switched, Traffic::Candidate) if candidate_proven == Some(true) => Ending::Promote,
        (Phase::Planned, Traffic::Mixed)
        | (Phase::Starting | Phase::Healthy, Traffic::Candidate | Traffic::Mixed)
        | (Phase::Validated, Traffic::Candidate | Traffic::Mixed | Traffic::Unknown)
        | (Phase::Switched, _) => {
            if previous_healthy == Some(false) {
                Ending::Halt
            } else {
                Ending::RollBack
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PHASES: [Phase; 9] = [
        Phase::Planned,
        Phase::Starting,
        Phase::Healthy,
        Phase::Validated,
        Phase::Switched,
        Phase::Promoted,
        Phase::Refused,
        Phase::RolledBack,
        Phase::Halted,
    ];
    /// Yes, no, and unknown.
    const ANSWERS: [Option<bool>; 3] = [Some(true), Some(false), None];

    fn any_traffic() -> impl Strategy<Value = Traffic> {
        prop::sample::select(vec![
            Traffic::Previous,
            Traffic::Candidate,
            Traffic::Mixed,
            Traffic::Unknown,
        ])
    }

    fn any_answer() -> impl Strategy<Value = Option<bool>> {
        prop::sample::select(ANSWERS.to_vec())
    }

    proptest! {
        // There are 324 inputs.
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn ending_keeps_its_invariants(
            phase in prop::sample::select(PHASES.to_vec()),
            traffic in any_traffic(),
            proven in any_answer(),
            healthy in any_answer(),
        ) {
            let end = ending(phase, traffic, proven, healthy);

            prop_assert_eq!(end == Ending::Keep, phase.is_end());
            prop_assert!(end.phase().is_none_or(Phase::is_end));
            let promotable = phase == Phase::Switched && traffic == Traffic::Candidate && proven == Some(true);
            prop_assert_eq!(end == Ending::Promote, promotable);
            if end == Ending::Refuse {
                prop_assert!(phase != Phase::Switched && traffic != Traffic::Mixed);
                prop_assert!(traffic != Traffic::Candidate || phase == Phase::Planned);
            }
            if traffic == Traffic::Mixed && !phase.is_end() {
                prop_assert!(matches!(end, Ending::RollBack | Ending::Halt));
            }
            // Traffic never moves back to an unhealthy color, and only such a color halts the deployment.
            if end == Ending::RollBack {
                prop_assert_ne!(healthy, Some(false));
            }
            if end == Ending::Halt {
                prop_assert_eq!(healthy, Some(false));
            }
            // A proven candidate that has the traffic keeps it.
            if promotable {
                prop_assert!(!end.stops_candidate(phase));
            }
            // A candidate that is stopped has no traffic: traffic never reached it, or moved back first.
            if end.stops_candidate(phase) && traffic == Traffic::Candidate {
                prop_assert_eq!(end, Ending::RollBack);
            }
            if phase == Phase::Planned {
                prop_assert!(!end.stops_candidate(phase));
            }
        }

        #[test]
        fn unknown_proof_counts_as_unproven(
            phase in prop::sample::select(PHASES.to_vec()),
            traffic in any_traffic(),
            healthy in any_answer(),
        ) {
            let unknown = ending(phase, traffic, None, healthy);
            prop_assert_eq!(unknown, ending(phase, traffic, Some(false), healthy));
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Success,
        Failure { previous_healthy: Option<bool> },
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let failure = |previous_healthy| Step::Failure { previous_healthy };
        prop_oneof![
            3 => Just(Step::Success),
            2 => any_answer().prop_map(failure),
        ]
    }

    /// Returns where the deployer itself has put the traffic in this phase.
    fn traffic_in(phase: Phase) -> Traffic {
        match phase {
            Phase::Planned
            | Phase::Starting
            | Phase::Healthy
            | Phase::Validated
            | Phase::Refused
            | Phase::RolledBack => Traffic::Previous,
            Phase::Switched | Phase::Promoted => Traffic::Candidate,
            Phase::Halted => Traffic::Unknown,
        }
    }

    fn on_failure(phase: Phase, previous_healthy: Option<bool>) -> Option<Phase> {
        ending(phase, traffic_in(phase), Some(false), previous_healthy).phase()
    }

    /// Returns the phases of a deployment with these steps.
    fn phases_of(steps: &[Step]) -> Vec<Phase> {
        let mut phases = vec![Phase::Planned];
        for step in steps {
            let now = phases[phases.len() - 1];
            let next = match *step {
                Step::Success => now.on_success(),
                Step::Failure { previous_healthy } => on_failure(now, previous_healthy),
            };
            phases.extend(next);
        }
        phases
    }

    proptest! {
        #[test]
        fn deployment_ends_within_five_steps(steps in prop::collection::vec(any_step(), 5..9)) {
            let phases = phases_of(&steps);
            prop_assert!(phases[phases.len() - 1].is_end(), "{phases:?}");
            prop_assert!(phases.len() <= 6, "{phases:?}");
        }

        #[test]
        fn traffic_moves_only_after_validation(steps in prop::collection::vec(any_step(), 0..9)) {
            let phases = phases_of(&steps);
            if let Some(moved) = phases.iter().position(|phase| traffic_in(*phase) != Traffic::Previous) {
                prop_assert_eq!(phases[moved], Phase::Switched);
                prop_assert_eq!(phases[moved - 1], Phase::Validated);
            }
        }

        #[test]
        fn refused_deployment_never_moved_traffic(steps in prop::collection::vec(any_step(), 0..9)) {
            let phases = phases_of(&steps);
            if phases.contains(&Phase::Refused) {
                prop_assert!(phases.iter().all(|phase| traffic_in(*phase) == Traffic::Previous), "{phases:?}");
            }
        }

        #[test]
        fn failure_never_leaves_traffic_on_candidate(
            steps in prop::collection::vec(any_step(), 0..9),
            previous_healthy in any_answer(),
        ) {
            let phases = phases_of(&steps);
            if let Some(after) = on_failure(phases[phases.len() - 1], previous_healthy) {
                prop_assert!(after.is_end());
                prop_assert_ne!(traffic_in(after), Traffic::Candidate);
            }
        }

        #[test]
        fn ended_deployment_stays_ended(steps in prop::collection::vec(any_step(), 5..9), more in any_step()) {
            let mut longer = steps.clone();
            longer.push(more);
            prop_assert_eq!(phases_of(&steps), phases_of(&longer));
        }
    }
}
