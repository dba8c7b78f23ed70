//! Inference off the async threads: what waits, what goes through the model together, and the
//! threads that do it.

mod job;
mod policy;
mod queue;
mod worker;

pub(crate) use job::{Answer, InferenceError, Job, Outcome, StageTimes, Work};
pub(crate) use policy::Policy;
pub(crate) use queue::PushError;
pub(crate) use worker::{Plan, Pulses, Shop, Workers, panic_message};
