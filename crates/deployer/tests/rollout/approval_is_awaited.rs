//! Deployments that wait for approval, and bakes that a person ends early.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use deployer::{
    config::ApprovalPoint,
    deployment::{phase::Phase, recover::Recovery},
    shutdown::Stop,
    state::{
        approval::{ApprovalDecision, Waiting},
        operator_request::{Answer, OperatorCommand, OperatorRequest, OperatorRequests},
    },
};
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::sleep;

use crate::{
    deployment::{CANDIDATE, Deployment, FinishedDeployment, OLD, last_entry},
    fake_ports::{FakePorts, State},
    server::{Server, ServerFault},
    trace::TraceEvent,
};

const MINUTE: Duration = Duration::from_mins(1);
const SECOND: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);
const BOTH: [ApprovalPoint; 2] = [ApprovalPoint::Switched, ApprovalPoint::Promoted];
/// The end of a candidate that does not get its approval.
const POINTS: [(ApprovalPoint, Phase); 2] = [
    (ApprovalPoint::Switched, Phase::Refused),
    (ApprovalPoint::Promoted, Phase::RolledBack),
];

/// So few requests in a second that those of a short outage do not fail the candidate with certainty.
const FEW_CLIENTS: f64 = 5.0;

/// A person with a shell, and the answers that the person got.
struct Person {
    fake_ports: FakePorts,
    state: PathBuf,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl Person {
    fn waiting(&self) -> Option<Waiting> {
        last_entry(&self.state)?.waiting
    }

    /// Waits until the deployment asks.
    async fn question(&self) -> Waiting {
        loop {
            if let Some(waiting) = self.waiting() {
                return waiting;
            }
            sleep(PAUSE).await;
        }
    }

    /// Waits until a question is decided.
    async fn no_question(&self) {
        while self.waiting().is_some() {
            sleep(PAUSE).await;
        }
    }

    /// Waits until the deployment has reached this phase.
    async fn phase(&self, phase: Phase) {
        while last_entry(&self.state).is_none_or(|entry| entry.phase != phase) {
            sleep(PAUSE).await;
        }
    }

    /// Sends a decision, and waits for the answer, unless the deployment ends first.
    async fn decide(&self, command: OperatorCommand, evidence: Option<&str>) -> Answer {
        let requests = OperatorRequests::of(&self.state);
        let request = OperatorRequest {
            by: "alice@host".to_owned(),
            evidence: evidence.map(str::to_owned),
            ..OperatorRequest::new(command, Timestamp::now(), Some("a reason".to_owned()))
        };
        requests.send(&request).expect("a request");
        let answer = loop {
            match requests.answer(&request) {
                Some(answer) => break answer,
                None => sleep(PAUSE).await,
            }
        };
        self.answers.lock().expect("no panic").push(answer.clone());
        answer
    }

    /// Approves what waits.
    async fn approve(&self) -> Answer {
        let waiting = self.question().await;
        let answer = self.decide(OperatorCommand::Approve, Some(&waiting.evidence));
        answer.await
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.fake_ports.lock());
    }

    fn set_fault(&self, fault: ServerFault) {
        self.change(|state| state.server(CANDIDATE).fault = fault);
    }
}

/// A deployment that waits at these points for 5 min, and whose evidence is fresh for a minute.
fn awaiting(points: &[ApprovalPoint]) -> Deployment {
    let mut deployment = Deployment::of(Server::good());
    let approval = &mut deployment.settings.approval;
    approval.before = points.to_vec();
    approval.expires = 5 * MINUTE;
    approval.fresh = MINUTE;
    deployment
}

/// Adds a person who does this. Returns the person's answers.
fn with_person<F: Future<Output = ()> + Send + 'static>(
    deployment: &mut Deployment,
    acts: impl FnOnce(Person) -> F + 'static,
) -> Arc<Mutex<Vec<Answer>>> {
    let answers = Arc::<Mutex<Vec<Answer>>>::default();
    let heard = Arc::clone(&answers);
    deployment.operator = Some(Box::new(|fake_ports, state| {
        let acted = acts(Person {
            fake_ports,
            state,
            answers,
        });
        let acted = async {
            acted.await;
            // The deployer goes on.
            std::future::pending::<()>().await;
        };
        acted.boxed()
    }));
    heard
}

/// Runs a deployment with a person who does this.
async fn run_with<F: Future<Output = ()> + Send + 'static>(
    mut deployment: Deployment,
    acts: impl FnOnce(Person) -> F + 'static,
) -> (FinishedDeployment, Vec<Answer>) {
    let answers = with_person(&mut deployment, acts);
    let finished = Box::pin(deployment.run()).await;
    let answers = answers.lock().expect("no panic").clone();
    (finished, answers)
}

/// The questions of a deployment and their decisions, in order.
fn approvals(finished: &FinishedDeployment) -> Vec<&TraceEvent> {
    let events = finished.trace.0.iter().map(|entry| &entry.event);
    events
        .filter(|event| {
            matches!(
                event,
                TraceEvent::ApprovalAwaited(_) | TraceEvent::ApprovalDecided(..)
            )
        })
        .collect()
}

fn count_gate(finished: &FinishedDeployment, name: &str) -> usize {
    let events = finished.trace.0.iter();
    events
        .filter(|entry| matches!(entry.event, TraceEvent::GateFinished(gate, _) if gate == name))
        .count()
}

fn assert_declined(answer: &Answer, reason: &str) {
    assert!(
        matches!(answer, Answer::Declined { reason: given } if given.contains(reason)),
        "{reason:?} is not in {answer:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn approved_deployment_goes_on_at_both_points() {
    let (finished, _) = run_with(awaiting(&BOTH), async |person| {
        let first = person.question().await;
        assert_eq!(first.before, Phase::Switched);
        person.change(|state| assert_eq!(state.active, OLD));
        person.approve().await;
        person.no_question().await;
        let second = person.question().await;
        assert_eq!(second.before, Phase::Promoted);
        assert_ne!(first.evidence, second.evidence);
        person.change(|state| {
            assert_eq!(state.active, CANDIDATE);
            assert!(!state.fit.contains(&CANDIDATE));
        });
        person.approve().await;
    })
    .await;
    finished.assert_outcome(Phase::Promoted, "baked for 10 s");
    for before in ["switched", "promoted"] {
        let approved = format!("approved before {before} by alice@host: a reason");
        finished.assert_outcome(Phase::Promoted, &approved);
    }
    let approved = ApprovalDecision::Approved;
    assert_eq!(
        approvals(&finished),
        [
            &TraceEvent::ApprovalAwaited(Phase::Switched),
            &TraceEvent::ApprovalDecided(Phase::Switched, approved),
            &TraceEvent::ApprovalAwaited(Phase::Promoted),
            &TraceEvent::ApprovalDecided(Phase::Promoted, approved),
        ]
    );
    assert_eq!(finished.journal.unwrap().waiting, None);
}

#[tokio::test(start_paused = true)]
async fn question_without_decision_expires() {
    for (point, end) in POINTS {
        let finished = Box::pin(awaiting(&[point]).run()).await;
        finished.assert_outcome(end, "expired: no person decided within 5m");
        assert_eq!(finished.active, OLD);
        assert!(finished.took >= 5 * MINUTE, "{:?}", finished.took);
        assert!(finished.took < 6 * MINUTE, "{:?}", finished.took);
        let expired = TraceEvent::ApprovalDecided(point.phase(), ApprovalDecision::Expired);
        assert_eq!(approvals(&finished).last(), Some(&&expired));
        assert_eq!(finished.journal.unwrap().waiting, None);
    }
}

#[tokio::test(start_paused = true)]
async fn rejected_candidate_is_refused_or_rolled_back() {
    for (point, end) in POINTS {
        let mut deployment = awaiting(&[point]);
        let reject = OperatorRequest::new(
            OperatorCommand::Reject,
            Timestamp::UNIX_EPOCH,
            Some("too slow".to_owned()),
        );
        deployment.stops = vec![(MINUTE, Stop::Request(reject))];
        let finished = Box::pin(deployment.run()).await;
        finished.assert_outcome(end, "stopped by `deployer reject` by ");
        finished.assert_outcome(end, ": too slow");
        assert_eq!(finished.active, OLD);
        let rejected = TraceEvent::ApprovalDecided(point.phase(), ApprovalDecision::Rejected);
        assert_eq!(approvals(&finished).last(), Some(&&rejected));
    }
}

#[tokio::test(start_paused = true)]
async fn old_evidence_is_taken_anew_once_after_an_approval_and_asked_about_again() {
    let (finished, _) = run_with(awaiting(&[ApprovalPoint::Switched]), async |person| {
        let first = person.question().await;
        // The evidence is older than a minute at each approval.
        sleep(2 * MINUTE).await;
        person.approve().await;
        while person.question().await.since == first.since {
            sleep(PAUSE).await;
        }
        sleep(2 * MINUTE).await;
        person.approve().await;
    })
    .await;
    finished.assert_outcome(Phase::Promoted, "baked for 10 s");
    assert_eq!(count_gate(&finished, "smoke"), 2);
    assert_eq!(approvals(&finished).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn candidate_whose_evidence_turns_bad_after_an_approval_is_refused() {
    let (finished, _) = run_with(awaiting(&[ApprovalPoint::Switched]), async |person| {
        person.question().await;
        sleep(2 * MINUTE).await;
        // Health checks and test requests still pass.
        person.set_fault(ServerFault::ReportsStaleVersion);
        person.approve().await;
    })
    .await;
    finished.assert_outcome(Phase::Refused, "identity: ");
    assert_eq!(finished.active, OLD);
    assert_eq!(approvals(&finished).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn candidate_that_turns_sick_before_the_switch_is_refused() {
    for (fault, reason) in [
        (ServerFault::Unhealthy, "3 checks in a row failed"),
        (ServerFault::FailsPredictions, "test request failed"),
        (ServerFault::Hangs, "3 checks in a row failed"),
        (ServerFault::Exited, "it stopped: exit code 3"),
    ] {
        let (finished, _) = run_with(awaiting(&BOTH), async move |person| {
            person.question().await;
            sleep(10 * SECOND).await;
            person.set_fault(fault);
        })
        .await;
        finished.assert_outcome(Phase::Refused, "while it waited for approval: ");
        finished.assert_outcome(Phase::Refused, reason);
        assert!(finished.took < MINUTE, "{fault:?}: {:?}", finished.took);
        assert_eq!(finished.journal.unwrap().waiting, None);
    }
}

#[tokio::test(start_paused = true)]
async fn candidate_that_turns_sick_before_the_promotion_is_rolled_back() {
    for fault in [
        ServerFault::Unhealthy,
        ServerFault::Exited,
        // Only its clients notice.
        ServerFault::FailsClients,
        // Only the deployer's own requests notice, because no client sends any.
        ServerFault::HangsForClients,
    ] {
        let mut deployment = awaiting(&[ApprovalPoint::Promoted]);
        if fault == ServerFault::HangsForClients {
            deployment = deployment.without_clients();
        }
        let (finished, _) = run_with(deployment, async move |person| {
            person.question().await;
            sleep(MINUTE).await;
            person.set_fault(fault);
        })
        .await;
        finished.assert_outcome(Phase::RolledBack, "bake, after ");
        assert_eq!(finished.active, OLD);
        assert!(finished.took < 2 * MINUTE, "{fault:?}: {:?}", finished.took);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_candidate_is_not_approved_until_it_recovers() {
    for point in BOTH {
        let mut deployment = awaiting(&[point]);
        deployment.state.clients_per_second = FEW_CLIENTS;
        let (finished, answers) = run_with(deployment, async |person| {
            person.question().await;
            person.set_fault(ServerFault::Unhealthy);
            sleep(3 * SECOND / 2).await;
            person.approve().await;
            person.set_fault(ServerFault::None);
            // The failed requests leave the last window of the bake.
            sleep(MINUTE / 2).await;
            person.approve().await;
        })
        .await;
        assert_declined(
            &answers[0],
            "the candidate is failing now: health check failed",
        );
        finished.assert_outcome(Phase::Promoted, "approved before");
    }
}

#[tokio::test(start_paused = true)]
async fn approval_of_other_evidence_is_declined() {
    let (finished, answers) = run_with(awaiting(&[ApprovalPoint::Switched]), async |person| {
        let waiting = person.question().await;
        let other = format!("{}00", &waiting.evidence[..62]);
        let approve = OperatorCommand::Approve;
        person.decide(approve, Some(&other)).await;
        person.decide(approve, None).await;
        person.approve().await;
        // The bake follows, so the deployer still answers.
        person.no_question().await;
        person.decide(approve, Some(&waiting.evidence)).await;
    })
    .await;
    let [other, none, right, late] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_declined(other, "has changed since you saw it");
    assert_declined(none, "names no evidence");
    assert_eq!(*right, Answer::Accepted);
    assert_declined(late, "alice@host approved it already");
    finished.assert_outcome(Phase::Promoted, "approved before switched");
}

/// Kills the deployer of this deployment while it waits.
fn killed_while_waiting(mut deployment: Deployment) -> Deployment {
    deployment.operator = Some(Box::new(|fake_ports, state| {
        let person = Person {
            fake_ports,
            state,
            answers: Arc::default(),
        };
        async move {
            person.question().await;
            sleep(5 * SECOND).await;
        }
        .boxed()
    }));
    deployment
}

/// Whether an approval of this deployment would find a question.
fn waits(state: &Path) -> bool {
    last_entry(state).is_some_and(|entry| entry.waiting.is_some())
}

#[tokio::test(start_paused = true)]
async fn recovery_after_a_kill_while_waiting_ends_as_for_the_phase() {
    for (point, end) in POINTS {
        let deployment = killed_while_waiting(awaiting(&[point]));
        let interrupted = deployment.run_to_end_or_kill().await;
        assert_eq!(interrupted.outcome, None);
        assert!(waits(interrupted.directory.path()));
        let recovery = interrupted.recover().await.unwrap();
        assert_eq!(
            recovery,
            match end {
                Phase::Refused => Recovery::Fine,
                _ => Recovery::RolledBack(OLD),
            }
        );
        assert_eq!(interrupted.last_entry().unwrap().phase, end);
        assert!(!waits(interrupted.directory.path()));
        assert_eq!(interrupted.fake_ports.lock().active, OLD);
    }
}

#[tokio::test(start_paused = true)]
async fn resumed_bake_does_not_keep_the_question_of_the_killed_deployer() {
    let deployment = killed_while_waiting(awaiting(&[ApprovalPoint::Promoted]));
    let interrupted = deployment.run_to_end_or_kill().await;
    let outcome = interrupted.resume().await;
    assert_eq!(outcome.phase, Phase::Promoted, "{}", outcome.reason);
    assert!(!waits(interrupted.directory.path()));
}

#[tokio::test(start_paused = true)]
async fn person_ends_a_bake_early() {
    let mut deployment = awaiting(&[]);
    deployment.settings.bake.duration = 5 * MINUTE;
    let (finished, _) = run_with(deployment, async |person| {
        person.phase(Phase::Switched).await;
        sleep(20 * SECOND).await;
        person.decide(OperatorCommand::Promote, None).await;
    })
    .await;
    finished.assert_outcome(
        Phase::Promoted,
        "ended early by `deployer promote` by alice@host: a reason",
    );
    assert_eq!(finished.active, CANDIDATE);
    assert!(finished.took < MINUTE, "{:?}", finished.took);
}

#[tokio::test(start_paused = true)]
async fn bake_that_ends_early_still_waits_for_approval() {
    let mut deployment = awaiting(&[ApprovalPoint::Promoted]);
    deployment.settings.bake.duration = 5 * MINUTE;
    let (finished, answers) = run_with(deployment, async |person| {
        person.phase(Phase::Switched).await;
        sleep(20 * SECOND).await;
        person.decide(OperatorCommand::Promote, None).await;
        person.question().await;
        person.decide(OperatorCommand::Promote, None).await;
        person.approve().await;
    })
    .await;
    let [early, again, ..] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(*early, Answer::Accepted);
    assert_declined(again, "waits for approval before promoted");
    finished.assert_outcome(Phase::Promoted, "approved before promoted");
    assert!(finished.took < MINUTE, "{:?}", finished.took);
}

#[tokio::test(start_paused = true)]
async fn bake_does_not_end_early_while_the_candidate_is_failing() {
    let mut deployment = awaiting(&[]);
    deployment.settings.bake.duration = 2 * MINUTE;
    deployment.state.clients_per_second = FEW_CLIENTS;
    let (finished, answers) = run_with(deployment, async |person| {
        person.decide(OperatorCommand::Promote, None).await;
        person.phase(Phase::Switched).await;
        sleep(20 * SECOND).await;
        person.set_fault(ServerFault::Unhealthy);
        sleep(3 * SECOND / 2).await;
        person.decide(OperatorCommand::Promote, None).await;
        person.set_fault(ServerFault::None);
    })
    .await;
    let [before, failing] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_declined(before, "does not bake now");
    assert_declined(failing, "the candidate is failing now: ");
    finished.assert_outcome(Phase::Promoted, "baked for 120 s");
}
