//! Stop signals (Ctrl-C, SIGTERM, and a terminal that closes), and requests of other commands.

use std::time::Duration;

use deployer::{
    config::OnInterrupt,
    deployment::phase::Phase,
    ports::Service,
    shutdown::Stop,
    state::operator_request::{OperatorCommand, OperatorRequest},
};
use jiff::Timestamp;

use crate::{
    deployment::{CANDIDATE, Deployment, FinishedDeployment, OLD},
    fake_ports::Hanging,
    server::{Server, ServerFault},
    trace::Call,
};

/// While the candidate starts.
const BEFORE_SWITCH: Duration = Duration::from_secs(2);
/// During the bake of 10 s.
const DURING_BAKE: Duration = Duration::from_secs(5);

async fn run_with_signals(
    candidate: Server,
    on_interrupt: OnInterrupt,
    signals: &[Duration],
) -> FinishedDeployment {
    let mut deployment = Deployment::of(candidate);
    deployment.settings.bake.on_interrupt = on_interrupt;
    deployment.stops = signals.iter().map(|at| (*at, Stop::Signal)).collect();
    Box::pin(deployment.run()).await
}

#[tokio::test(start_paused = true)]
async fn signal_before_the_switch_refuses() {
    for on_interrupt in [OnInterrupt::Rollback, OnInterrupt::Continue] {
        let candidate = Server::with_fault(ServerFault::Unhealthy);
        let finished = run_with_signals(candidate, on_interrupt, &[BEFORE_SWITCH]).await;
        finished.assert_outcome(Phase::Refused, "the deployer received a stop signal");
        assert_eq!(finished.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn signal_after_the_switch_rolls_back() {
    let finished = run_with_signals(Server::good(), OnInterrupt::Rollback, &[DURING_BAKE]).await;
    finished.assert_outcome(Phase::RolledBack, "the deployer received a stop signal");
    assert_eq!(finished.active, OLD);
    assert!(finished.took < 2 * DURING_BAKE, "{:?}", finished.took);
}

#[tokio::test(start_paused = true)]
async fn signal_is_ignored_once_with_on_interrupt_continue() {
    let finished = run_with_signals(Server::good(), OnInterrupt::Continue, &[DURING_BAKE]).await;
    assert_eq!(finished.outcome.phase, Phase::Promoted);
    assert_eq!(finished.active, CANDIDATE);
    let notes = finished.trace.notes();
    assert!(
        notes.iter().any(|note| note.contains("the bake continues")),
        "{notes:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn second_signal_rolls_back_with_on_interrupt_continue() {
    let finished = run_with_signals(
        Server::good(),
        OnInterrupt::Continue,
        &[DURING_BAKE, DURING_BAKE],
    )
    .await;
    finished.assert_outcome(Phase::RolledBack, "the deployer received a stop signal");
}

#[tokio::test(start_paused = true)]
async fn request_to_stop_also_counts_with_on_interrupt_continue() {
    for (at, phase) in [
        (BEFORE_SWITCH, Phase::Refused),
        (DURING_BAKE, Phase::RolledBack),
    ] {
        let candidate = match phase {
            Phase::Refused => Server::with_fault(ServerFault::Unhealthy),
            _ => Server::good(),
        };
        let mut deployment = Deployment::of(candidate);
        deployment.settings.bake.on_interrupt = OnInterrupt::Continue;
        let request = OperatorRequest::new(OperatorCommand::Rollback, Timestamp::UNIX_EPOCH, None);
        deployment.stops = vec![(at, Stop::Request(request))];
        let finished = Box::pin(deployment.run()).await;
        finished.assert_outcome(phase, "stopped by `deployer rollback` by");
        assert_eq!(finished.active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn start_is_abandoned_before_the_candidate_is_stopped() {
    let mut deployment = Deployment::of(Server::good());
    deployment.state.hanging = Some(Hanging::Start);
    deployment.stops = vec![(BEFORE_SWITCH, Stop::Signal)];
    let finished = Box::pin(deployment.run()).await;
    finished.assert_outcome(Phase::Refused, "the deployer received a stop signal");
    let abandoned = finished.trace.position(&Call::AbandonStart);
    let stopped = finished
        .trace
        .position(&Call::Stop(Service::Server(CANDIDATE)));
    assert!(
        abandoned.is_some() && abandoned < stopped,
        "{abandoned:?} {stopped:?}"
    );
}
