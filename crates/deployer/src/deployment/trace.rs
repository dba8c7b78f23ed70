//! The trace of a deployment: what its spans and hooks need.

use serde::{Deserialize, Serialize};

/// The root span of a deployment. It is part of the plan, so that a recovery continues the trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeploymentTrace {
    /// The trace ID, 32 hexadecimal digits.
    pub id: String,
    /// The ID of the root span, 16 hexadecimal digits.
    pub span: String,
    /// The span of the caller, such as a CI job; `None` if the deployment begins the trace.
    pub parent: Option<String>,
    /// Whether the spans are sent; the caller may say no.
    pub sampled: bool,
}

impl DeploymentTrace {
    /// The header and environment variable of W3C Trace Context with which a hook continues the trace.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let flags = u8::from(self.sampled);
        format!("00-{}-{}-{flags:02x}", self.id, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_names_trace_root_span_and_flag() {
        let trace = DeploymentTrace {
            id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
            span: "00f067aa0ba902b7".to_owned(),
            parent: None,
            sampled: true,
        };
        let expected = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(trace.traceparent(), expected);
    }
}
