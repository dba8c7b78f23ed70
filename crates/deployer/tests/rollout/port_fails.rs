//! Injected faults in any calls, before or after their effect, with good and faulty releases.

use std::time::Duration;

use deployer::{color::Color, deployment::phase::Phase};
use proptest::prelude::*;

use crate::{
    deployment::{CANDIDATE, Deployment, FinishedDeployment, OLD},
    faults::CallFault,
    server::{Server, ServerFault},
};

/// Faults hit calls below this number. A deployment makes about this many.
const CALLS: usize = 120;

/// The longest deployment: five health checks 3 s apart, 6 s for the router, a bake of 10 s that is extended
/// twice, and two more observations.
const LONGEST: Duration = Duration::from_secs(12 + 6 + 3 * 10 + 2);

fn any_server_fault() -> impl Strategy<Value = ServerFault> {
    prop_oneof![
        4 => Just(ServerFault::None),
        1 => prop::sample::select(vec![
            ServerFault::CannotStart,
            ServerFault::Exited,
            ServerFault::Unhealthy,
            ServerFault::FailsPredictions,
            ServerFault::FailsOneIn(3),
            ServerFault::FailsClients,
            ServerFault::CountsFailures,
            ServerFault::ReportsStaleVersion,
        ]),
    ]
}

fn any_later_fault() -> impl Strategy<Value = Option<(u64, ServerFault)>> {
    prop::option::of((
        0_u64..12,
        prop::sample::select(vec![
            ServerFault::Exited,
            ServerFault::Unhealthy,
            ServerFault::FailsPredictions,
            ServerFault::FailsOneIn(3),
            ServerFault::FailsClients,
            ServerFault::CountsFailures,
            ServerFault::ReportsStaleVersion,
            ServerFault::Restarted,
        ]),
    ))
}

fn any_call_fault() -> impl Strategy<Value = (usize, CallFault)> {
    (
        0..CALLS,
        prop::sample::select(vec![CallFault::Before, CallFault::After]),
    )
}

/// Runs a future on virtual time. Tests of proptest are synchronous.
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
    call_faults: Vec<(usize, CallFault)>,
    clients_per_second: f64,
    fit: Vec<Color>,
) -> FinishedDeployment {
    on_virtual_time(async {
        let mut deployment = Deployment::of(candidate());
        deployment.state.faults.by_number = call_faults;
        deployment.state.clients_per_second = clients_per_second;
        deployment.state.fit = fit;
        deployment.run().await
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    // `Deployment::run` also asserts the invariants of every deployment.
    #[test]
    fn traffic_matches_the_outcome_under_any_faults(
        fault in any_server_fault(),
        later_fault in any_later_fault(),
        call_faults in prop::collection::vec(any_call_fault(), 0..=2),
        clients_per_second in prop::sample::select(vec![0.0, 1.5, 50.0]),
        fit in prop::sample::subsequence(Color::BOTH.to_vec(), 0..=2),
    ) {
        let candidate = || Server {
            fault,
            later_fault: later_fault.map(|(seconds, fault)| (Duration::from_secs(seconds), fault)),
            ..Server::good()
        };
        let finished = run(candidate, call_faults, clients_per_second, fit);
        match finished.outcome.phase {
            Phase::Promoted => {
                prop_assert_eq!(finished.active, CANDIDATE);
                // A client fault that another fault soon replaces may stay within the limit.
                let may_pass = later_fault.is_some()
                    && matches!(fault, ServerFault::FailsClients | ServerFault::CountsFailures);
                prop_assert!(may_pass || fault == ServerFault::None, "{:?}", fault);
            }
            Phase::Refused | Phase::RolledBack => prop_assert_eq!(finished.active, OLD),
            Phase::Halted => {}
            phase => prop_assert!(false, "{} is not an end", phase),
        }
        prop_assert!(!finished.outcome.reason.is_empty());
        prop_assert!(finished.took <= LONGEST, "{:?}", finished.took);
    }

    #[test]
    fn single_failed_call_never_halts_a_good_release(fault in any_call_fault()) {
        let finished = run(Server::good, vec![fault], 50.0, Color::BOTH.to_vec());
        prop_assert_ne!(finished.outcome.phase, Phase::Halted, "{}", finished.outcome.reason);
    }
}
