//! Traces: the trace context of the caller, and the spans of requests.

pub(crate) mod trace_context;
pub(crate) mod tracer;
