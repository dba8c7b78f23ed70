//! What operators decide about the deployment under way: `approve` and `promote`, by a command or on the page.

use std::{cell::RefCell, fmt::Write as _, path::Path, time::Duration};

use tokio::sync::Notify;

use crate::{
    event::{Event, Reporter},
    state::{
        approval::Waiting,
        operator_request::{OperatorCommand, OperatorRequest, OperatorRequests},
    },
};

/// What an operator may decide now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum OpenDecision {
    /// Nothing.
    Nothing,
    /// Whether the deployment goes on.
    Approval(Waiting),
    /// Whether the bake ends early.
    Bake,
}

/// Receives the decisions about one deployment, and answers each of them.
#[derive(Debug)]
pub struct Decisions {
    requests: OperatorRequests,
    id: String,
    open: RefCell<OpenDecision>,
    /// Why the candidate is failing now, if it is.
    failing: RefCell<Option<String>>,
    /// The decision that was accepted and that the deployment has not seen yet.
    accepted: RefCell<Option<OperatorRequest>>,
    decision_accepted: Notify,
    /// The last decision that was accepted.
    last: RefCell<Option<OperatorRequest>>,
    /// What persons said, for the reason of the end.
    reasons: RefCell<Vec<String>>,
}

impl Decisions {
    /// The decisions about the deployment `id`, which arrive in the state directory `state`.
    #[must_use]
    pub fn about(id: &str, state: &Path) -> Self {
        Self {
            requests: OperatorRequests::of(state).for_deployment(id),
            id: id.to_owned(),
            open: RefCell::new(OpenDecision::Nothing),
            failing: RefCell::default(),
            accepted: RefCell::default(),
            decision_accepted: Notify::new(),
            last: RefCell::default(),
            reasons: RefCell::default(),
        }
    }

    /// Lets operators approve what `waiting` says.
    pub(crate) fn open_approval(&self, waiting: Waiting) {
        self.failing.replace(None);
        self.open.replace(OpenDecision::Approval(waiting));
    }

    /// Lets operators end the bake early, unless the candidate is failing.
    pub(crate) fn open_bake(&self, failing: Option<String>) {
        self.failing.replace(failing);
        self.open.replace(OpenDecision::Bake);
    }

    /// Lets operators decide nothing, and forgets a decision that the deployment has not seen.
    pub(crate) fn close(&self) {
        self.accepted.take();
        self.open.replace(OpenDecision::Nothing);
    }

    /// Says why the candidate is failing now, if it is. As long as it is, decisions are declined.
    pub(crate) fn set_failing(&self, failing: Option<String>) {
        self.failing.replace(failing);
    }

    /// What the deployment waits for, if it does.
    pub(crate) fn waiting(&self) -> Option<Waiting> {
        match &*self.open.borrow() {
            OpenDecision::Approval(waiting) => Some(waiting.clone()),
            OpenDecision::Nothing | OpenDecision::Bake => None,
        }
    }

    /// Resolves when a decision was accepted.
    pub(crate) async fn decided(&self) -> OperatorRequest {
        loop {
            if let Some(request) = self.accepted.take() {
                return request;
            }
            self.decision_accepted.notified().await;
        }
    }

    /// Adds an approval to the reason of the end.
    pub(crate) fn add_approval(&self, waiting: &Waiting, request: &OperatorRequest) {
        let mut text = format!("approved before {} by {}", waiting.before, request.by);
        if let Some(reason) = &request.reason {
            // Writing to a string cannot fail.
            let _ = write!(text, ": {reason}");
        }
        self.reasons.borrow_mut().push(text);
    }

    /// Adds why a person asked for the deployment.
    pub(crate) fn add_reason(&self, reason: String) {
        self.reasons.borrow_mut().push(reason);
    }

    /// Adds to the reason of an end what persons said.
    pub(crate) fn complete_reason(&self, reason: String) -> String {
        let parts = std::iter::once(reason).chain(self.reasons.take());
        parts.collect::<Vec<String>>().join("; ")
    }

    /// Answers each decision that arrives, until this future is dropped.
    pub(crate) async fn answer_all(&self, reporter: &dyn Reporter) {
        /// A request that can neither be accepted nor removed is found again.
        const PAUSE: Duration = Duration::from_millis(50);

        loop {
            let request = self.requests.decision().await;
            let answered = match self.decline_reason(&request) {
                Some(reason) => self.requests.decline(&request, reason),
                None => self.requests.accept(&request).map(|()| {
                    self.close();
                    self.last.replace(Some(request.clone()));
                    self.accepted.replace(Some(request));
                    self.decision_accepted.notify_one();
                }),
            };
            if let Err(error) = answered {
                let text = format!("a request of another command cannot be answered: {error}");
                reporter.report(&Event::Note { text });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// Why a decision is declined; `None` if it is accepted.
    fn decline_reason(&self, request: &OperatorRequest) -> Option<String> {
        let another = self.requests.concerns_another(request);
        another.or_else(|| match request.command {
            OperatorCommand::Approve => self.decline_approval(request),
            OperatorCommand::Promote => self.decline_promotion(),
            OperatorCommand::Rollback | OperatorCommand::Abort | OperatorCommand::Reject => {
                let command = request.command.as_str();
                Some(format!(
                    "`deployer {command}` ends a deployment; send it as a request to stop"
                ))
            }
        })
    }

    fn decline_approval(&self, request: &OperatorRequest) -> Option<String> {
        let id = &self.id;
        let open = self.open.borrow();
        let OpenDecision::Approval(waiting) = &*open else {
            return Some(match self.last_of(OperatorCommand::Approve) {
                Some(last) => format!(
                    "deployment {id} is not waiting for approval; {} approved it already",
                    last.by
                ),
                None => format!("deployment {id} is not waiting for approval"),
            });
        };
        match &request.evidence {
            Some(seen) if *seen == waiting.evidence => self.failing_now(),
            Some(_) => Some(format!(
                "the evidence of deployment {id} has changed since you saw it; its digest is now {}: look at it, and approve again",
                waiting.evidence
            )),
            None => Some("the request names no evidence".to_owned()),
        }
    }

    fn decline_promotion(&self) -> Option<String> {
        let id = &self.id;
        match &*self.open.borrow() {
            OpenDecision::Bake => self.failing_now(),
            OpenDecision::Approval(waiting) => Some(format!(
                "deployment {id} waits for approval before {}; `deployer approve` lets it go on",
                waiting.before
            )),
            OpenDecision::Nothing => Some(match self.last_of(OperatorCommand::Promote) {
                Some(last) => format!(
                    "deployment {id} does not bake now; {} ended its bake already",
                    last.by
                ),
                None => format!("deployment {id} does not bake now"),
            }),
        }
    }

    fn failing_now(&self) -> Option<String> {
        let failing = self.failing.borrow();
        let failing = failing.as_ref()?;
        Some(format!("the candidate is failing now: {failing}"))
    }

    /// The last decision, if it was such a command.
    fn last_of(&self, command: OperatorCommand) -> Option<OperatorRequest> {
        let last = self.last.borrow();
        last.clone().filter(|last| last.command == command)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{deployment::phase::Phase, report::Reporters, state::operator_request::Answer};

    fn waiting(evidence: &str) -> Waiting {
        Waiting {
            before: Phase::Switched,
            evidence: evidence.to_owned(),
            since: Timestamp::UNIX_EPOCH,
            expires: Timestamp::UNIX_EPOCH,
        }
    }

    fn request(command: OperatorCommand, evidence: Option<&str>) -> OperatorRequest {
        OperatorRequest {
            by: "alice@host".to_owned(),
            evidence: evidence.map(str::to_owned),
            ..OperatorRequest::new(command, Timestamp::now(), None)
        }
    }

    fn approve(evidence: &str) -> OperatorRequest {
        request(OperatorCommand::Approve, Some(evidence))
    }

    /// Sends a request, and returns why it is declined; `None` if it is accepted.
    async fn answer(decisions: &Decisions, request: &OperatorRequest) -> Option<String> {
        decisions.requests.send(request).unwrap();
        let no_reporter = Reporters(Vec::new());
        let answered = async {
            loop {
                match decisions.requests.answer(request) {
                    Some(Answer::Accepted) => return None,
                    Some(Answer::Declined { reason }) => return Some(reason),
                    None => tokio::task::yield_now().await,
                }
            }
        };
        tokio::select! {
            answer = answered => answer,
            () = decisions.answer_all(&no_reporter) => None,
        }
    }

    #[tokio::test]
    async fn only_the_approval_of_the_shown_evidence_is_accepted_and_only_once() {
        let state = tempfile::tempdir().unwrap();
        let decisions = Decisions::about("1-v2", state.path());
        let declined = answer(&decisions, &approve("aa")).await.unwrap();
        assert_eq!(declined, "deployment 1-v2 is not waiting for approval");

        decisions.open_approval(waiting("bb"));
        let declined = answer(&decisions, &approve("aa")).await.unwrap();
        assert!(
            declined.contains("has changed since you saw it"),
            "{declined}"
        );
        let nameless = request(OperatorCommand::Approve, None);
        assert!(answer(&decisions, &nameless).await.is_some());
        let another = OperatorRequest {
            deployment: Some("2-v3".to_owned()),
            ..approve("bb")
        };
        let declined = answer(&decisions, &another).await.unwrap();
        assert!(declined.contains("2-v3 is not under way"), "{declined}");

        let right = approve("bb");
        assert_eq!(answer(&decisions, &right).await, None);
        assert_eq!(decisions.decided().await, right);
        let second = OperatorRequest {
            by: "bob@host".to_owned(),
            ..approve("bb")
        };
        let declined = answer(&decisions, &second).await.unwrap();
        assert!(declined.contains("alice@host approved it"), "{declined}");
    }

    #[tokio::test]
    async fn failing_candidate_is_neither_approved_nor_promoted() {
        let state = tempfile::tempdir().unwrap();
        let decisions = Decisions::about("1-v2", state.path());
        let promote = || request(OperatorCommand::Promote, None);
        let declined = answer(&decisions, &promote()).await.unwrap();
        assert_eq!(declined, "deployment 1-v2 does not bake now");

        let failing = || Some("health check failed: answered 503".to_owned());
        decisions.open_bake(failing());
        let declined = answer(&decisions, &promote()).await.unwrap();
        assert!(declined.contains("answered 503"), "{declined}");
        decisions.open_approval(waiting("aa"));
        let declined = answer(&decisions, &promote()).await.unwrap();
        assert!(declined.contains("waits for approval"), "{declined}");
        decisions.set_failing(failing());
        let declined = answer(&decisions, &approve("aa")).await.unwrap();
        assert!(declined.contains("answered 503"), "{declined}");

        decisions.open_bake(None);
        assert_eq!(answer(&decisions, &promote()).await, None);
    }

    #[test]
    fn reason_of_the_end_names_who_approved_and_why() {
        let state = tempfile::tempdir().unwrap();
        let decisions = Decisions::about("1-v2", state.path());
        let with_reason = OperatorRequest {
            reason: Some("looks right".to_owned()),
            ..approve("aa")
        };
        decisions.add_approval(&waiting("aa"), &with_reason);
        assert_eq!(
            decisions.complete_reason("baked for 60 s".to_owned()),
            "baked for 60 s; approved before switched by alice@host: looks right"
        );
    }
}
