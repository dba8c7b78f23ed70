//! How `approve` and `promote` reach the deployer at work.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use crate::{
    commands::output::CommandError,
    config::Settings,
    exit_code,
    ports::Ports,
    state::{
        approval::Waiting,
        journal_entries::DeploymentEntry,
        lock_holder::LockHolder,
        operator_request::{Answer, OperatorCommand, OperatorRequest, OperatorRequests, SendError},
    },
};

/// How long the deployer at work may take to answer. It looks for decisions all the time, but may share a busy machine.
const MAX_WAIT_FOR_ANSWER: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

/// A deployment whose deployer is at work.
pub(super) struct LiveDeployment {
    pub(super) holder: LockHolder,
    pub(super) entry: DeploymentEntry,
}

/// The deployment that is under way. Fails if there is none, or if it is not the one that the user named.
pub(super) async fn live_deployment(
    ports: &Ports,
    id: Option<&str>,
) -> anyhow::Result<LiveDeployment> {
    let holder = ports.lock.holder().await.filter(LockHolder::deploys);
    let entries = ports.journal.read().await?;
    let under_way = entries.unfinished_deployment().cloned();
    let (Some(holder), Some(entry)) = (holder, under_way) else {
        return Err(CommandError::refused("no deployment is under way"));
    };
    let own = &entry.plan.id;
    match id {
        Some(id) if id != own => Err(CommandError::refused(format!(
            "deployment {id} is not under way; deployment {own} is"
        ))),
        _ => Ok(LiveDeployment { holder, entry }),
    }
}

impl LiveDeployment {
    /// The identifier of the deployment.
    pub(super) fn id(&self) -> &str {
        &self.entry.plan.id
    }

    /// A request by the current user about this deployment.
    pub(super) fn request(&self, command: OperatorCommand, reason: &str) -> OperatorRequest {
        OperatorRequest {
            deployment: Some(self.id().to_owned()),
            ..OperatorRequest::new(command, Timestamp::now(), Some(reason.to_owned()))
        }
    }

    /// What the deployment waits for. Fails if it does not wait.
    pub(super) fn waiting(&self) -> anyhow::Result<&Waiting> {
        let waiting = self.entry.waiting.as_ref();
        let live = waiting.filter(|waiting| waiting.is_live(Some(&self.holder)));
        live.ok_or_else(|| {
            CommandError::refused(format!(
                "deployment {} is not waiting for approval",
                self.id()
            ))
        })
    }

    /// Sends a decision, and waits until the deployer at work has accepted it. Fails if it declines it, or does not answer.
    pub(super) async fn decide(
        &self,
        settings: &Settings,
        request: &OperatorRequest,
    ) -> anyhow::Result<()> {
        let requests = OperatorRequests::of(&settings.state);
        match requests.send(request) {
            Ok(()) => {}
            Err(error @ SendError::SecondDecision(_)) => return Err(CommandError::refused(error)),
            Err(SendError::Io(error)) => {
                return Err(CommandError::with(
                    exit_code::UNEXPECTED,
                    format!("cannot send the request to {}: {error}", self.holder),
                ));
            }
        }
        let deadline = Instant::now() + MAX_WAIT_FOR_ANSWER;
        while Instant::now() < deadline {
            match requests.answer(request) {
                Some(Answer::Accepted) => return Ok(()),
                Some(Answer::Declined { reason }) => return Err(CommandError::refused(reason)),
                None => sleep(PAUSE).await,
            }
        }
        let withdrawn = requests.withdraw(request);
        // It may have answered until now.
        match requests.answer(request) {
            Some(Answer::Accepted) => Ok(()),
            Some(Answer::Declined { reason }) => Err(CommandError::refused(reason)),
            None => Err(CommandError::with(
                exit_code::BUSY,
                match withdrawn {
                    Ok(()) => format!("{} does not answer; nothing was decided", self.holder),
                    Err(error) => format!(
                        "{} does not answer, and the request cannot be withdrawn: {error}",
                        self.holder
                    ),
                },
            )),
        }
    }
}
