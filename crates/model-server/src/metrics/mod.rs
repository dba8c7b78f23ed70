//! The server's metrics, and their exposition.

pub(crate) mod counters;
pub(crate) mod exposition;
