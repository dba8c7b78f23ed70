//! What a person asks for with a form: requests to the deployer at work, and actions of the monitor.

use std::{path::Path, time::Duration};

use jiff::Timestamp;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::{
    adapters::StateDirectory,
    color::Color,
    monitor::{
        page::{
            form::{Fields, wrong},
            guards::Refusal,
        },
        page_actions::{PageAction, PageAnswer, PageRequest},
    },
    ports::{JournalStore as _, Lock as _},
    state::{
        lock_holder::LockHolder,
        operator_request::{Answer, OperatorCommand, OperatorRequest, OperatorRequests, SendError},
    },
};

/// How long the deployer at work may take to answer. It looks for requests 20 times a second.
const MAX_WAIT_FOR_DEPLOYER: Duration = Duration::from_secs(3);
/// How long the monitor may take. It checks the colors and the router on the way.
const MAX_WAIT_FOR_MONITOR: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);

/// An action that a form requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RequestedAction {
    /// The deployer at work carries it out.
    Deployer {
        command: OperatorCommand,
        /// The identifier of the deployment that the person saw.
        deployment: String,
        /// The digest of the evidence that the person saw; only `approve` has one.
        evidence: Option<String>,
    },
    /// The monitor carries it out.
    Monitor(PageAction),
}

impl RequestedAction {
    /// The fields of all forms.
    pub(crate) const FIELDS: [&str; 6] = [
        "reason",
        "deployment",
        "evidence",
        "release",
        "color",
        "fit",
    ];

    /// Reads the form of the action `name`; `None` if there is no such action.
    pub(crate) fn read(name: &str, fields: &Fields) -> Option<Result<Self, Refusal>> {
        let command = match name {
            "approve" => OperatorCommand::Approve,
            "reject" => OperatorCommand::Reject,
            "abort" => OperatorCommand::Abort,
            "promote" => OperatorCommand::Promote,
            // Without a deployment, the release is typed.
            "rollback" if fields.has("deployment") => OperatorCommand::Rollback,
            "rollback" => {
                let release = fields.field("release").map(str::to_owned);
                let action = release.map(|release| PageAction::RollBack { release });
                return Some(action.map(Self::Monitor));
            }
            "stand-in" => return Some(stand_in(fields).map(Self::Monitor)),
            _ => return None,
        };
        Some(Self::of_deployer(command, fields))
    }

    fn of_deployer(command: OperatorCommand, fields: &Fields) -> Result<Self, Refusal> {
        let evidence = match command {
            OperatorCommand::Approve => Some(fields.field("evidence")?.to_owned()),
            _ => None,
        };
        Ok(Self::Deployer {
            command,
            deployment: fields.field("deployment")?.to_owned(),
            evidence,
        })
    }
}

fn stand_in(fields: &Fields) -> Result<PageAction, Refusal> {
    let color = match fields.field("color")? {
        "blue" => Color::Blue,
        "green" => Color::Green,
        _ => return Err(wrong("the field color must be blue or green")),
    };
    let fit = match fields.field("fit")? {
        "true" => true,
        "false" => false,
        _ => return Err(wrong("the field fit must be true or false")),
    };
    Ok(PageAction::StandIn { color, fit })
}

/// Sends actions to the deployer at work, or to the monitor.
pub(crate) struct Actions {
    state: StateDirectory,
    requests: OperatorRequests,
    monitor: mpsc::Sender<PageRequest>,
}

impl Actions {
    pub(crate) fn new(state: &Path, monitor: mpsc::Sender<PageRequest>) -> Self {
        Self {
            state: StateDirectory::new(state),
            requests: OperatorRequests::of(state),
            monitor,
        }
    }

    /// Requests `action` on behalf of `by`, and waits for the answer.
    pub(crate) async fn perform(
        &self,
        action: RequestedAction,
        by: String,
        reason: String,
    ) -> PageAnswer {
        match action {
            RequestedAction::Monitor(action) => self.ask_monitor(action, by, reason).await,
            RequestedAction::Deployer {
                command,
                deployment,
                evidence,
            } => {
                let request = OperatorRequest {
                    command,
                    by,
                    at: Timestamp::now(),
                    reason: Some(reason),
                    deployment: Some(deployment),
                    evidence,
                };
                self.ask_deployer(&request).await
            }
        }
    }

    async fn ask_monitor(&self, action: PageAction, by: String, reason: String) -> PageAnswer {
        let (answer, answered) = oneshot::channel();
        let request = PageRequest {
            action,
            by,
            reason,
            answer,
        };
        if self.monitor.try_send(request).is_err() {
            return Err("nothing was done, because the monitor is busy: try again".to_owned());
        }
        match timeout(MAX_WAIT_FOR_MONITOR, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err("the monitor is stopping, and did not answer".to_owned()),
            Err(_) => Err(format!(
                "the monitor did not answer within {} s: look at the cards and the history before you try again",
                MAX_WAIT_FOR_MONITOR.as_secs()
            )),
        }
    }

    async fn ask_deployer(&self, request: &OperatorRequest) -> PageAnswer {
        let holder = self.deployer_of(request).await?;
        self.requests.send(request).map_err(|error| match error {
            SendError::SecondDecision(first) => {
                format!("nothing was done, because {first} was first")
            }
            SendError::Io(error) => format!("the request cannot be written: {error}"),
        })?;
        let deadline = Instant::now() + MAX_WAIT_FOR_DEPLOYER;
        loop {
            if let Some(answer) = self.requests.answer(request) {
                return answered(request, answer);
            }
            if Instant::now() >= deadline {
                return self.unanswered(request, &holder).await;
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns who works on the deployment that a request is about.
    async fn deployer_of(&self, request: &OperatorRequest) -> Result<LockHolder, String> {
        let wanted = request.deployment.as_deref().unwrap_or_default();
        let holder = self.state.holder().await.filter(LockHolder::deploys);
        let holder = holder.ok_or_else(|| {
            format!("nothing was done, because deployment {wanted} is not under way any more")
        })?;
        let entries = self.state.read().await.map_err(|error| error.to_string())?;
        match entries.unfinished_deployment() {
            Some(entry) if entry.plan.id == wanted => Ok(holder),
            Some(entry) => Err(format!(
                "nothing was done, because deployment {} is under way, and not {wanted}",
                entry.plan.id
            )),
            None => Err(format!(
                "nothing was done, because deployment {wanted} is not under way any more"
            )),
        }
    }

    /// Says what follows when the deployer does not answer.
    async fn unanswered(&self, request: &OperatorRequest, holder: &LockHolder) -> PageAnswer {
        let command = request.command;
        if command.stops() {
            // It ended at the same moment.
            if self.state.holder().await.as_ref() != Some(holder) {
                return Err(
                    "the deployment ended before it could answer: its report says how".to_owned(),
                );
            }
            return Err(format!(
                "{holder} does not answer. It stops when it goes on; `deployer rollback` moves traffic without it"
            ));
        }
        // What was withdrawn is not done later by surprise.
        let withdrawn = self.requests.withdraw(request);
        // It may have answered until now.
        if let Some(answer) = self.requests.answer(request) {
            return answered(request, answer);
        }
        Err(match withdrawn {
            Ok(()) => format!(
                "nothing was done, because {holder} does not wait for `deployer {}` now",
                command.as_str()
            ),
            Err(error) => format!("{holder} does not answer, and the request stays: {error}"),
        })
    }
}

/// Tells the person what the deployer at work answered.
fn answered(request: &OperatorRequest, answer: Answer) -> PageAnswer {
    match answer {
        Answer::Accepted => Ok(done(request)),
        Answer::Declined { reason } => Err(format!("nothing was done: {reason}")),
    }
}

/// What a request that was accepted does.
fn done(request: &OperatorRequest) -> String {
    let deployment = request.deployment.as_deref().unwrap_or_default();
    match request.command {
        OperatorCommand::Approve => format!("deployment {deployment} is approved and goes on"),
        OperatorCommand::Reject => format!("deployment {deployment} is rejected and ends"),
        OperatorCommand::Abort => format!("deployment {deployment} is aborted and ends"),
        OperatorCommand::Promote => format!("deployment {deployment} ends its bake now"),
        OperatorCommand::Rollback => {
            format!(
                "deployment {deployment} ends, and the previous release keeps or gets the traffic"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, HeaderValue, header};

    use super::*;
    use crate::{monitor::page_actions, state::journal::Journal};

    fn fields(body: &str) -> Fields {
        let mut headers = HeaderMap::new();
        let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(header::CONTENT_TYPE, kind);
        Fields::parse(&headers, body.as_bytes(), &RequestedAction::FIELDS).unwrap()
    }

    #[test]
    fn form_is_parsed_into_its_action() {
        let read =
            |name: &str, body: &str| RequestedAction::read(name, &fields(body)).unwrap().unwrap();
        assert_eq!(
            read("approve", "deployment=d1&evidence=e1"),
            RequestedAction::Deployer {
                command: OperatorCommand::Approve,
                deployment: "d1".to_owned(),
                evidence: Some("e1".to_owned()),
            }
        );
        assert_eq!(
            read("rollback", "deployment=&release=v2"),
            RequestedAction::Monitor(PageAction::RollBack {
                release: "v2".to_owned()
            })
        );
        assert_eq!(
            read("stand-in", "color=green&fit=false"),
            RequestedAction::Monitor(PageAction::StandIn {
                color: Color::Green,
                fit: false
            })
        );
        assert_eq!(
            RequestedAction::read("switch", &fields("color=green")),
            None
        );
    }

    #[test]
    fn forms_with_missing_or_wrong_fields_are_refused() {
        for (name, body, field) in [
            ("approve", "deployment=d1", "evidence"),
            ("approve", "evidence=e1", "deployment"),
            ("abort", "", "deployment"),
            ("rollback", "", "release"),
            ("stand-in", "color=red&fit=true", "color"),
            ("stand-in", "color=blue&fit=yes", "fit"),
        ] {
            let refusal = RequestedAction::read(name, &fields(body))
                .unwrap()
                .unwrap_err();
            assert!(refusal.text.contains(field), "{name} {body}: {refusal:?}");
        }
    }

    fn abort(deployment: &str) -> RequestedAction {
        RequestedAction::Deployer {
            command: OperatorCommand::Abort,
            deployment: deployment.to_owned(),
            evidence: None,
        }
    }

    /// Why nothing was done.
    async fn refusal(actions: &Actions, action: RequestedAction) -> String {
        let answer = actions.perform(action, "ann (page)".to_owned(), "a reason".to_owned());
        answer.await.unwrap_err()
    }

    #[tokio::test]
    async fn request_for_a_deployment_that_ended_is_not_sent() {
        let state = tempfile::tempdir().unwrap();
        let (monitor, _requests) = page_actions::channel();
        let actions = Actions::new(state.path(), monitor);
        let ports = crate::adapters::connect_in(state.path());
        let text = refusal(&actions, abort("d1")).await;
        assert!(text.contains("d1 is not under way any more"), "{text}");
        let _held = Journal::lock(&ports, "deploy v2").await.unwrap();
        let text = refusal(&actions, abort("d1")).await;
        assert!(text.contains("d1 is not under way any more"), "{text}");
        assert!(!state.path().join("requests/stop.json").exists());
    }

    #[tokio::test(start_paused = true)]
    async fn action_that_the_monitor_does_not_answer_is_reported() {
        let state = tempfile::tempdir().unwrap();
        let (monitor, mut requests) = page_actions::channel();
        let actions = Actions::new(state.path(), monitor);
        let roll_back = || {
            RequestedAction::Monitor(PageAction::RollBack {
                release: "v2".to_owned(),
            })
        };
        let text = refusal(&actions, roll_back()).await;
        assert!(text.contains("did not answer within 20 s"), "{text}");
        let request = requests.recv().await.unwrap();
        assert!(
            request.answer.is_closed(),
            "it must not be carried out later"
        );
        drop(requests);
        let text = refusal(&actions, roll_back()).await;
        assert!(text.contains("nothing was done"), "{text}");
    }
}
