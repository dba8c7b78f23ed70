//! Inference off the async threads: plain threads that take texts from one bounded queue.

mod classifier;
mod pool;
mod queue;

pub(crate) use classifier::{Classification, Classifier, ClassifyError};
pub(crate) use pool::{Job, Workers, panic_message};
pub(crate) use queue::{PushError, Queue};
