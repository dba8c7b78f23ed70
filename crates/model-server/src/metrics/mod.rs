//! The server's metrics, and how they are exposed.

pub(crate) mod counters;
pub(crate) mod exposition;
mod histogram;
mod label_table;
mod prometheus_text;
