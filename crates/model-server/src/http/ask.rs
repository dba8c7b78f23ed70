use std::{
    iter,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::{HeaderMap, HeaderName};
use tokio::{sync::oneshot, time::timeout_at};

use super::error::ApiError;
use crate::{
    batch::{Answer, Job, PushError, Work},
    room::Room,
    state::{ServerState, Serving},
};

/// By which header a client says how long it waits, in milliseconds.
pub(super) const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// When an answer comes too late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    after: Duration,
}

impl Deadline {
    /// The server's own limit from now on, or the client's where that is shorter.
    pub(super) fn of(state: &ServerState, headers: &HeaderMap) -> Result<Self, ApiError> {
        let own = state.request_timeout;
        let after = match headers.get(TIMEOUT_HEADER) {
            None => own,
            Some(value) => {
                let milliseconds = value
                    .to_str()
                    .ok()
                    .and_then(|text| text.trim().parse().ok());
                let wanted = milliseconds.filter(|it| *it > 0).map(Duration::from_millis);
                wanted.ok_or(ApiError::TimeoutHeader)?.min(own)
            }
        };
        Ok(Self {
            at: Instant::now() + after,
            after,
        })
    }

    /// What `work` gives, if it ends in time.
    pub(super) async fn bound<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.at.into(), work).await.ok()
    }

    /// How long a client waits from its request on.
    pub(super) fn after(&self) -> Duration {
        self.after
    }
}

/// The release at work, unless there is none.
pub(super) fn serving(state: &ServerState) -> Result<&Serving, ApiError> {
    state.serving.get().ok_or_else(|| unavailable(state))
}

/// Has a worker do one piece of work. A client that leaves takes it out of the queue with it.
pub(super) async fn ask(
    state: &Arc<ServerState>,
    work: Work,
    room: Option<Arc<Room>>,
    deadline: Deadline,
) -> Result<Answer, ApiError> {
    let (job, answered) = job(work, room, deadline);
    push(state, iter::once(job))?;
    wait(state, answered, deadline).await
}

/// Has the workers do several pieces of work, all of them or none. The answers come in the order
/// of the work.
pub(super) async fn ask_all(
    state: &Arc<ServerState>,
    work: Vec<Work>,
    room: Option<&Arc<Room>>,
    deadline: Deadline,
) -> Result<Vec<Answer>, ApiError> {
    let (jobs, waiting): (Vec<_>, Vec<_>) = work
        .into_iter()
        .map(|work| job(work, room.cloned(), deadline))
        .unzip();
    push(state, jobs.into_iter())?;
    let mut answers = Vec::with_capacity(waiting.len());
    for answered in waiting {
        answers.push(wait(state, answered, deadline).await?);
    }
    Ok(answers)
}

fn job(
    work: Work,
    room: Option<Arc<Room>>,
    deadline: Deadline,
) -> (Job, oneshot::Receiver<Answer>) {
    let (answer, answered) = oneshot::channel();
    let job = Job {
        work,
        room,
        arrived: Instant::now(),
        deadline: deadline.at,
        answer,
    };
    (job, answered)
}

fn push(state: &ServerState, jobs: impl ExactSizeIterator<Item = Job>) -> Result<(), ApiError> {
    let pushed = serving(state)?.shop.queue.push(jobs);
    pushed.map_err(|refusal| match refusal {
        PushError::Full => ApiError::QueueFull,
        PushError::Closed => unavailable(state),
    })
}

async fn wait(
    state: &ServerState,
    answered: oneshot::Receiver<Answer>,
    deadline: Deadline,
) -> Result<Answer, ApiError> {
    match deadline.bound(answered).await {
        Some(Ok(answer)) => Ok(answer),
        // Dropped unanswered: because it was late already, or because nobody is left to answer.
        Some(Err(_)) if Instant::now() >= deadline.at => Err(ApiError::Timeout(deadline.after)),
        Some(Err(_)) => Err(unavailable(state)),
        None => Err(ApiError::Timeout(deadline.after)),
    }
}

pub(super) fn unavailable(state: &ServerState) -> ApiError {
    let reason = state.unhealthy_reason(Instant::now());
    ApiError::Unavailable(reason.unwrap_or_else(|| "no inference worker is left".to_owned()))
}
