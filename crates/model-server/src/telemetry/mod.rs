//! Traces: the caller's trace context, and where spans go.

pub(crate) mod trace_context;
pub(crate) mod tracer;
