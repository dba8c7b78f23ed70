//! Requests to the deployer at work: another command, or the page, asks the deployer to end its deployment, to let it go on, or
//! to end its bake.
//!
//! A request is a file of the state directory, so that it also reaches a deployer in another container or of another
//! user. The deployer at work accepts a request by renaming its file. It declines a request by writing why.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    pin::pin,
    process,
    task::{Poll, ready},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::interval;

use crate::state::{atomic_file, lock_holder::current_user};

/// How often the deployer at work looks for a request.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What an operator asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperatorCommand {
    /// `deployer rollback`: end the deployment.
    Rollback,
    /// `deployer abort`: end the deployment.
    Abort,
    /// `deployer reject`: end the deployment, which waits for approval.
    Reject,
    /// `deployer approve`: let the deployment go on.
    Approve,
    /// `deployer promote`: end the bake early.
    Promote,
}

impl OperatorCommand {
    /// The command as the user typed it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Abort => "abort",
            Self::Reject => "reject",
            Self::Approve => "approve",
            Self::Promote => "promote",
        }
    }

    /// Whether the command ends the deployment: the candidate is refused, or rolled back if it has the traffic.
    #[must_use]
    pub fn stops(self) -> bool {
        match self {
            Self::Rollback | Self::Abort | Self::Reject => true,
            Self::Approve | Self::Promote => false,
        }
    }
}

/// A request to the deployer at work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRequest {
    /// What is asked for.
    pub command: OperatorCommand,
    /// Who asks: `user@host` for a command, `NAME (page)` for the page.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
    /// The identifier of the deployment; `None` for the one that is under way.
    #[serde(default)]
    pub deployment: Option<String>,
    /// The digest of the evidence that the operator saw. `approve` needs it.
    #[serde(default)]
    pub evidence: Option<String>,
}

impl OperatorRequest {
    /// A request by the current user at this time, about the deployment that is under way.
    #[must_use]
    pub fn new(command: OperatorCommand, at: Timestamp, reason: Option<String>) -> Self {
        Self {
            command,
            by: current_user(),
            at,
            reason,
            deployment: None,
            evidence: None,
        }
    }
}

impl fmt::Display for OperatorRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`deployer {}` by {}",
            self.command.as_str(),
            self.by
        )?;
        match &self.reason {
            Some(reason) => write!(formatter, ": {reason}"),
            None => Ok(()),
        }
    }
}

/// What the deployer at work answers to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It does what is asked for.
    Accepted,
    /// It does not.
    Declined {
        /// Why, as a sentence for people.
        reason: String,
    },
}

/// Why a request was not sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Another approval or promotion has no answer yet.
    #[error("{0} was sent first, and has no answer yet")]
    SecondDecision(Box<OperatorRequest>),
    /// The file could not be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A declined request, and why.
#[derive(Debug, Serialize, Deserialize)]
struct Declined {
    request: OperatorRequest,
    reason: String,
}

/// The requests of one installation. One request to stop and one decision can be sent at a time.
#[derive(Debug, Clone)]
pub struct OperatorRequests {
    directory: PathBuf,
    /// The deployment of the deployer at work; `None` if none has begun.
    deployment: Option<String>,
}

impl OperatorRequests {
    /// The requests in the state directory `state`.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self {
            directory: state.join("requests"),
            deployment: None,
        }
    }

    /// The same requests, for the deployer whose deployment has the identifier `id`. It declines requests to stop another
    /// deployment.
    #[must_use]
    pub fn for_deployment(&self, id: &str) -> Self {
        Self {
            deployment: Some(id.to_owned()),
            ..self.clone()
        }
    }

    /// The file of a request, sent or answered.
    fn file(&self, command: OperatorCommand, state: &str) -> PathBuf {
        let kind = if command.stops() { "stop" } else { "decision" };
        self.directory.join(format!("{kind}{state}.json"))
    }

    fn sent(&self, command: OperatorCommand) -> PathBuf {
        self.file(command, "")
    }

    fn accepted(&self, command: OperatorCommand) -> PathBuf {
        self.file(command, ".accepted")
    }

    fn declined(&self, command: OperatorCommand) -> PathBuf {
        self.file(command, ".declined")
    }

    /// Sends a request. A request to stop replaces an earlier one. A decision does not: of two people who decide at the
    /// same time, the second one is told who was first.
    pub fn send(&self, request: &OperatorRequest) -> Result<(), SendError> {
        fs::create_dir_all(&self.directory)?;
        let text = serde_json::to_string(request).map_err(io::Error::from)?;
        let sent = self.sent(request.command);
        if request.command.stops() {
            // Not by one temporary file for all: two people may stop at the same time.
            let temporary = write_temporary(&sent, &text)?;
            return Ok(fs::rename(&temporary, &sent)?);
        }
        match create_with(&sent, &text) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                match read(&sent) {
                    Some(first) => Err(SendError::SecondDecision(Box::new(first))),
                    // It was answered just now, or is damaged.
                    None => Err(error.into()),
                }
            }
            created => Ok(created?),
        }
    }

    /// Removes a decision that has no answer. The deployer at work no longer finds it. It may answer at the same moment, so look
    /// for an answer afterward.
    pub fn withdraw(&self, request: &OperatorRequest) -> io::Result<()> {
        let sent = self.sent(request.command);
        if read(&sent).as_ref() == Some(request) {
            return remove(&sent);
        }
        Ok(())
    }

    /// What the deployer at work answered to this request; `None` if it has not answered.
    #[must_use]
    pub fn answer(&self, request: &OperatorRequest) -> Option<Answer> {
        if read(&self.accepted(request.command)).as_ref() == Some(request) {
            return Some(Answer::Accepted);
        }
        let declined: Declined = read(&self.declined(request.command))?;
        (declined.request == *request).then_some(Answer::Declined {
            reason: declined.reason,
        })
    }

    /// Removes requests, also answered ones, and creates their directory as the deployer's own. The holder of the lock calls
    /// this: what was sent before is not for it.
    pub fn open(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        for command in [OperatorCommand::Abort, OperatorCommand::Approve] {
            for file in [
                self.sent(command),
                self.accepted(command),
                self.declined(command),
            ] {
                remove(&file)?;
            }
        }
        Ok(())
    }

    /// Resolves when a request to stop arrives, and accepts it.
    ///
    /// It looks for a request at each poll. So a deployer that polls it first, and was frozen, finds the request before it
    /// does anything else.
    pub async fn stop_request(&self) -> OperatorRequest {
        poll_until_found(|| self.accept_stop()).await
    }

    /// Resolves when a decision arrives. The deployer answers it by [`Self::accept`] or [`Self::decline`].
    pub async fn decision(&self) -> OperatorRequest {
        poll_until_found(|| self.sent_decision()).await
    }

    /// Accepts a request that was found.
    pub fn accept(&self, request: &OperatorRequest) -> io::Result<()> {
        fs::rename(self.sent(request.command), self.accepted(request.command))
    }

    /// Declines a request that was found.
    pub fn decline(&self, request: &OperatorRequest, reason: String) -> io::Result<()> {
        let declined = Declined {
            request: request.clone(),
            reason,
        };
        let written = serde_json::to_string(&declined)
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace(&self.declined(request.command), &text));
        // Also if the answer cannot be written: the request must not be found again.
        remove(&self.sent(request.command)).and(written)
    }

    /// Accepts the request to stop that was sent, if there is one. An unreadable request counts, and one that cannot be
    /// renamed: someone wants to stop.
    fn accept_stop(&self) -> Option<OperatorRequest> {
        let sent = self.sent(OperatorCommand::Abort);
        if !sent.exists() {
            return None;
        }
        let request = read(&sent).unwrap_or_else(|| OperatorRequest {
            by: "an unknown user".to_owned(),
            ..OperatorRequest::new(OperatorCommand::Abort, Timestamp::now(), None)
        });
        if let Some(reason) = self.concerns_another(&request) {
            // The sender notices that it gets no answer.
            let _ = self.decline(&request, reason);
            return None;
        }
        let _ = self.accept(&request);
        Some(request)
    }

    /// Why a request does not concern the deployment of the deployer at work; `None` if it does.
    #[must_use]
    pub fn concerns_another(&self, request: &OperatorRequest) -> Option<String> {
        let wanted = request.deployment.as_ref()?;
        match &self.deployment {
            Some(own) if own == wanted => None,
            Some(own) => Some(format!(
                "deployment {wanted} is not under way; deployment {own} is"
            )),
            None => Some(format!("deployment {wanted} is not under way")),
        }
    }

    /// The decision that was sent. Removes one that is unreadable: it would block the next one.
    fn sent_decision(&self) -> Option<OperatorRequest> {
        let sent = self.sent(OperatorCommand::Approve);
        if !sent.exists() {
            return None;
        }
        let request = read(&sent);
        if request.is_none() {
            let _ = remove(&sent);
        }
        request
    }
}

/// Resolves when `look` finds something. Looks at each poll.
async fn poll_until_found<T>(look: impl Fn() -> Option<T>) -> T {
    let mut ticks = pin!(interval(POLL_INTERVAL));
    std::future::poll_fn(|context| {
        loop {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            ready!(ticks.poll_tick(context));
        }
    })
    .await
}

/// Reads a file; `None` if it does not exist or is damaged.
fn read<T: serde::de::DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Creates a file with its whole content. Fails with `AlreadyExists` if the file exists.
fn create_with(file: &Path, text: &str) -> io::Result<()> {
    let temporary = write_temporary(file, text)?;
    let linked = fs::hard_link(&temporary, file);
    remove(&temporary)?;
    linked
}

/// Writes a file beside `file` that no other process writes. Returns its path.
fn write_temporary(file: &Path, text: &str) -> io::Result<PathBuf> {
    // Processes in two containers may have the same ID.
    let unique = format!("{}.{}.new", process::id(), Timestamp::now().as_nanosecond());
    let temporary = file.with_extension(unique);
    write_new(&temporary, text).inspect_err(|_| {
        // A full disk may have room for a part.
        let _ = remove(&temporary);
    })?;
    Ok(temporary)
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn request(command: OperatorCommand) -> OperatorRequest {
        OperatorRequest::new(command, Timestamp::UNIX_EPOCH, Some("a reason".to_owned()))
    }

    fn approve(by: &str) -> OperatorRequest {
        OperatorRequest {
            by: by.to_owned(),
            ..request(OperatorCommand::Approve)
        }
    }

    #[tokio::test]
    async fn request_to_stop_is_accepted_once() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        let rollback = request(OperatorCommand::Rollback);
        assert_eq!(requests.stop_request().now_or_never(), None);
        requests.send(&rollback).unwrap();
        assert_eq!(requests.answer(&rollback), None);
        assert_eq!(requests.stop_request().await, rollback);
        assert_eq!(requests.answer(&rollback), Some(Answer::Accepted));
        assert_eq!(requests.answer(&request(OperatorCommand::Abort)), None);
        assert_eq!(requests.stop_request().now_or_never(), None);
        for _ in 0..2 {
            requests.open().unwrap();
            assert_eq!(requests.answer(&rollback), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_is_found_within_the_interval() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        let began = tokio::time::Instant::now();
        let rollback = request(OperatorCommand::Rollback);
        let (received, ()) = tokio::join!(requests.stop_request(), async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            requests.send(&rollback).unwrap();
        });
        assert_eq!(received, rollback);
        assert!(began.elapsed() <= Duration::from_millis(120) + POLL_INTERVAL);
    }

    #[test]
    fn damaged_stop_request_ends_the_deployment() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        requests.send(&request(OperatorCommand::Abort)).unwrap();
        fs::write(requests.sent(OperatorCommand::Abort), "{").unwrap();
        let accepted = requests.accept_stop().unwrap();
        assert_eq!(accepted.by, "an unknown user");
    }

    #[tokio::test]
    async fn request_to_stop_another_deployment_is_declined() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        let reject = |id: &str| OperatorRequest {
            deployment: Some(id.to_owned()),
            ..request(OperatorCommand::Reject)
        };
        let own = requests.for_deployment("1-v1");
        requests.send(&reject("2-v2")).unwrap();
        assert_eq!(own.stop_request().now_or_never(), None);
        let reason = "deployment 2-v2 is not under way; deployment 1-v1 is".to_owned();
        let declined = Some(Answer::Declined { reason });
        assert_eq!(requests.answer(&reject("2-v2")), declined);
        requests.send(&reject("1-v1")).unwrap();
        assert_eq!(own.stop_request().await, reject("1-v1"));
    }

    #[tokio::test]
    async fn second_decision_error_names_the_first_operator() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        let (first, second) = (approve("first@host"), approve("second@host"));
        requests.send(&first).unwrap();
        let error = requests.send(&second).unwrap_err().to_string();
        assert!(error.contains("first@host"), "{error}");
        assert_eq!(requests.decision().await, first);
        requests.accept(&first).unwrap();
        assert_eq!(requests.answer(&first), Some(Answer::Accepted));
        requests.send(&second).unwrap();
        requests.decline(&second, "too late".to_owned()).unwrap();
        let reason = "too late".to_owned();
        let declined = Some(Answer::Declined { reason });
        assert_eq!(requests.answer(&second), declined);
        assert_eq!(requests.decision().now_or_never(), None);
        let left = fs::read_dir(state.path().join("requests")).unwrap();
        assert_eq!(left.count(), 2, "only the two answers are left");
    }

    #[test]
    fn withdrawn_decision_is_not_found_and_another_one_stays() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        let (first, second) = (approve("first@host"), approve("second@host"));
        requests.send(&first).unwrap();
        requests.withdraw(&second).unwrap();
        assert_eq!(requests.sent_decision(), Some(first.clone()));
        requests.withdraw(&first).unwrap();
        assert_eq!(requests.sent_decision(), None);
    }

    #[test]
    fn damaged_decision_does_not_block_the_next_one() {
        let state = tempfile::tempdir().unwrap();
        let requests = OperatorRequests::of(state.path());
        let next = approve("next@host");
        requests.open().unwrap();
        fs::write(requests.sent(OperatorCommand::Approve), "{").unwrap();
        assert_eq!(requests.sent_decision(), None);
        requests.send(&next).unwrap();
        assert_eq!(requests.sent_decision(), Some(next));
    }
}
