//! Inference off the async threads: the queue, its batches, and the threads that run them.

pub(crate) mod batch_queue;
pub(crate) mod batching_policy;
pub(crate) mod forward_pass;
pub(crate) mod inference_pool;
pub(crate) mod job;
pub(crate) mod shared_queue;
pub(crate) mod stage_times;
pub(crate) mod watchdog;
pub(crate) mod worker;
