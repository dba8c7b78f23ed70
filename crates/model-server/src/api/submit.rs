use std::{iter, sync::Arc, time::Instant};

use tokio::sync::oneshot;

use crate::{
    api::{deadline::Deadline, error::ApiError},
    memory_budget::MemoryReservation,
    scheduler::{
        batch_queue::PushError,
        job::{Completion, Job, JobInput},
    },
    state::{ServerState, Serving},
};

/// Returns the loaded release, or why there is none.
pub(crate) fn serving(state: &ServerState) -> Result<&Serving, ApiError> {
    state.serving.get().ok_or_else(|| unavailable(state))
}

/// Submits one job and waits for it. If the client leaves, the dropped future cancels the job.
pub(crate) async fn submit(
    state: &Arc<ServerState>,
    input: JobInput,
    reservation: Option<Arc<MemoryReservation>>,
    deadline: Deadline,
) -> Result<Completion, ApiError> {
    let (job, completed) = job(input, reservation, deadline);
    push(state, iter::once(job))?;
    wait(state, completed, deadline).await
}

/// Submits several jobs, all or none, and waits for them. Completions are in the order of the inputs.
pub(crate) async fn submit_all(
    state: &Arc<ServerState>,
    input: Vec<JobInput>,
    reservation: Option<&Arc<MemoryReservation>>,
    deadline: Deadline,
) -> Result<Vec<Completion>, ApiError> {
    let (jobs, waiting): (Vec<_>, Vec<_>) = input
        .into_iter()
        .map(|input| job(input, reservation.cloned(), deadline))
        .unzip();
    push(state, jobs.into_iter())?;
    let mut completions = Vec::with_capacity(waiting.len());
    for completed in waiting {
        completions.push(wait(state, completed, deadline).await?);
    }
    Ok(completions)
}

fn job(
    input: JobInput,
    reservation: Option<Arc<MemoryReservation>>,
    deadline: Deadline,
) -> (Job, oneshot::Receiver<Completion>) {
    let (reply, completed) = oneshot::channel();
    let job = Job {
        input,
        reservation,
        arrived: Instant::now(),
        deadline: deadline.at,
        reply,
    };
    (job, completed)
}

fn push(state: &ServerState, jobs: impl ExactSizeIterator<Item = Job>) -> Result<(), ApiError> {
    let pushed = serving(state)?.pool.queue.push(jobs);
    pushed.map_err(|refusal| match refusal {
        PushError::Full => ApiError::QueueFull,
        PushError::Closed => unavailable(state),
    })
}

async fn wait(
    state: &ServerState,
    completed: oneshot::Receiver<Completion>,
    deadline: Deadline,
) -> Result<Completion, ApiError> {
    match deadline.bound(completed).await {
        Some(Ok(reply)) => Ok(reply),
        // The sender was dropped: the job expired, or no worker is left.
        Some(Err(_)) if Instant::now() >= deadline.at => Err(ApiError::Timeout(deadline.after)),
        Some(Err(_)) => Err(unavailable(state)),
        None => Err(ApiError::Timeout(deadline.after)),
    }
}

pub(crate) fn unavailable(state: &ServerState) -> ApiError {
    let reason = state.unhealthy_reason(Instant::now());
    ApiError::Unavailable(reason.unwrap_or_else(|| "no inference worker is left".to_owned()))
}
