use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{
    backend::{
        engine::{Engine, Parallelism},
        tensor::Tensor,
    },
    metrics::counters::Metrics,
    panic_message::panic_message,
    scheduler::{
        batching_policy::BatchingPolicy,
        job::{Job, PreparedJob},
        shared_queue::SharedBatchQueue,
    },
    task::ModelTask,
};

/// How to run a release.
#[derive(Debug)]
pub(crate) struct ExecutionPlan {
    /// What the release answers.
    pub(crate) task: ModelTask,
    /// Which texts share a forward pass.
    pub(crate) policy: BatchingPolicy,
    /// Inputs for a self-test of the engine, if any are known.
    pub(crate) self_test_inputs: Option<Vec<Tensor>>,
    /// Whether a single forward pass is faster on all threads.
    pub(crate) parallel_is_faster: bool,
    /// Duration of a forward pass of one short text on one thread.
    pub(crate) single_pass: Duration,
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct InferencePool {
    /// What the release answers.
    pub(crate) task: ModelTask,
    /// The waiting jobs.
    pub(crate) queue: SharedBatchQueue<Job, PreparedJob>,
    /// The most tokens in a forward pass, padding included.
    pub(crate) max_tokens: usize,
    /// Inputs for a self-test of the engine, if any are known.
    pub(super) self_test_inputs: Option<Vec<Tensor>>,
    /// The indices of all outputs of the graph.
    pub(super) outputs: Vec<usize>,
    /// Whether a single forward pass is faster on all threads.
    pub(super) parallel_is_faster: bool,
    pub(super) metrics: Arc<Metrics>,
}

/// How much work must wait before an idle worker is woken to help the busy ones.
const MIN_WORK_TO_WAKE: Duration = Duration::from_micros(500);

impl InferencePool {
    /// Creates a pool without workers for a graph with `outputs` outputs. At most `capacity` jobs wait.
    pub(crate) fn new(
        plan: ExecutionPlan,
        capacity: usize,
        outputs: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        let ExecutionPlan {
            task,
            policy,
            self_test_inputs,
            parallel_is_faster,
            single_pass,
        } = plan;
        let wake_threshold = MIN_WORK_TO_WAKE.as_nanos() / single_pass.as_nanos().max(1);
        let wake_threshold = usize::try_from(wake_threshold).unwrap_or(capacity);
        Self {
            task,
            queue: SharedBatchQueue::new(capacity, policy, wake_threshold.clamp(1, capacity)),
            max_tokens: policy.max_tokens,
            self_test_inputs,
            outputs: (0..outputs).collect(),
            parallel_is_faster,
            metrics,
        }
    }

    /// Runs the self-test inputs, and fails if the engine does.
    pub(super) fn self_test(&self, engine: &mut dyn Engine) -> Result<(), String> {
        let Some(self_test_inputs) = &self.self_test_inputs else {
            return Ok(());
        };
        let pass = || {
            self.task
                .self_test(engine, self_test_inputs, &self.outputs, Parallelism::Single)
        };
        let passed = catch_unwind(AssertUnwindSafe(pass));
        passed.unwrap_or_else(|panic| Err(panic_message(panic.as_ref())))
    }
}
