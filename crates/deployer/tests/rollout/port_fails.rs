//! Any call may fail, before or after its effect, whatever the release is like.

use std::time::Duration;

use deployer::{color::Color, deployment::phase::Phase};
use proptest::prelude::*;

use crate::{
    deployment::{CANDIDATE, Deployment, Ended, OLD},
    script::Fault,
    server::{Server, Trouble},
};

/// A deployment makes about this many calls.
const CALLS: usize = 120;

/// Five tries 3 s apart; 5 s for the router, asked once more; 10 s of watching, extended twice, and
/// two looks more.
const BOUND: Duration = Duration::from_secs(12 + 6 + 3 * 10 + 2);

fn any_trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        4 => Just(Trouble::Nothing),
        1 => prop::sample::select(vec![
            Trouble::CannotStart,
            Trouble::Exited,
            Trouble::Unhealthy,
            Trouble::PredictsNothing,
            Trouble::FailsOneIn(3),
            Trouble::FailsClients,
            Trouble::CountsFailures,
            Trouble::IsStale,
        ]),
    ]
}

fn any_later_trouble() -> impl Strategy<Value = Option<(u64, Trouble)>> {
    prop::option::of((
        0_u64..12,
        prop::sample::select(vec![
            Trouble::Exited,
            Trouble::Unhealthy,
            Trouble::PredictsNothing,
            Trouble::FailsOneIn(3),
            Trouble::FailsClients,
            Trouble::CountsFailures,
            Trouble::IsStale,
            Trouble::WasRestarted,
        ]),
    ))
}

fn any_fault() -> impl Strategy<Value = (usize, Fault)> {
    (
        0..CALLS,
        prop::sample::select(vec![Fault::Before, Fault::After]),
    )
}

/// Runs on virtual time, which proptest's synchronous tests have none of.
pub(crate) fn on_virtual_time<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
        .block_on(future)
}

fn run(
    candidate: impl FnOnce() -> Server,
    faults: Vec<(usize, Fault)>,
    clients_per_second: f64,
    fit: Vec<Color>,
) -> Ended {
    on_virtual_time(async {
        let mut deployment = Deployment::of(candidate());
        deployment.state.script.faults = faults;
        deployment.state.clients_per_second = clients_per_second;
        deployment.state.fit = fit;
        deployment.run().await
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    // `Deployment::run` asserts on top what must be true at every moment and of every end.
    #[test]
    fn whatever_fails_the_deployment_ends_and_traffic_is_where_the_outcome_says(
        trouble in any_trouble(),
        later in any_later_trouble(),
        faults in prop::collection::vec(any_fault(), 0..=2),
        clients_per_second in prop::sample::select(vec![0.0, 1.5, 50.0]),
        fit in prop::sample::subsequence(Color::BOTH.to_vec(), 0..=2),
    ) {
        let candidate = || Server {
            trouble,
            later: later.map(|(seconds, trouble)| (Duration::from_secs(seconds), trouble)),
            ..Server::good()
        };
        let ended = run(candidate, faults, clients_per_second, fit);
        match ended.outcome.phase {
            Phase::Promoted => {
                prop_assert_eq!(ended.active, CANDIDATE);
                // Trouble that only clients meet, and that passes early, may stay within the limit.
                let passing = later.is_some()
                    && matches!(trouble, Trouble::FailsClients | Trouble::CountsFailures);
                prop_assert!(passing || trouble == Trouble::Nothing, "{:?}", trouble);
            }
            Phase::Refused | Phase::RolledBack => prop_assert_eq!(ended.active, OLD),
            Phase::Halted => {}
            phase => prop_assert!(false, "{} is not an end", phase),
        }
        prop_assert!(!ended.outcome.reason.is_empty());
        prop_assert!(ended.took <= BOUND, "{:?}", ended.took);
    }

    #[test]
    fn one_failed_call_never_needs_a_person_while_the_release_is_good(fault in any_fault()) {
        let ended = run(Server::good, vec![fault], 50.0, Color::BOTH.to_vec());
        prop_assert_ne!(ended.outcome.phase, Phase::Halted, "{}", ended.outcome.reason);
    }
}
