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

/// How a release is to be run.
#[derive(Debug)]
pub(crate) struct ExecutionPlan {
    /// What the release can answer.
    pub(crate) task: ModelTask,
    /// What may share a forward pass.
    pub(crate) policy: BatchingPolicy,
    /// Inputs with which an engine shows that it works, where any are known.
    pub(crate) self_test_inputs: Option<Vec<Tensor>>,
    /// Whether a forward pass that is alone is faster on several threads.
    pub(crate) parallel_is_faster: bool,
    /// How long a forward pass of one short text takes on one thread.
    pub(crate) single_pass: Duration,
}

/// What all workers share.
#[derive(Debug)]
pub(crate) struct InferencePool {
    /// What the release can answer.
    pub(crate) task: ModelTask,
    /// Where work waits.
    pub(crate) queue: SharedBatchQueue<Job, PreparedJob>,
    /// The most tokens in a forward pass, padding included.
    pub(crate) max_tokens: usize,
    /// Inputs with which an engine shows that it works, where any are known.
    pub(super) self_test_inputs: Option<Vec<Tensor>>,
    /// The places of all of the graph's outputs.
    pub(super) outputs: Vec<usize>,
    /// Whether a forward pass that is alone is faster on several threads.
    pub(super) parallel_is_faster: bool,
    pub(super) metrics: Arc<Metrics>,
}

/// How much work has to wait before a sleeping worker is woken to help the others.
const MIN_WORK_TO_WAKE: Duration = Duration::from_micros(500);

impl InferencePool {
    /// A shop without workers, in which at most `capacity` pieces of work wait, for a graph with so
    /// many outputs.
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

    /// Whether an engine can still answer, as far as anybody can tell.
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
