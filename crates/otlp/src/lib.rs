//! What the deployer and the model server share to send OpenTelemetry traces: the endpoint, the resource, and the trace
//! context of the caller.

mod endpoint;
mod resource;
mod trace_context;

pub use self::{
    endpoint::{check_endpoint, span_exporter},
    resource::resource,
    trace_context::parent_span,
};
