//! The caller's span, by the headers of its request.

use axum::http::{HeaderMap, HeaderName};
use opentelemetry::trace::SpanContext;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Returns the caller's span, by W3C Trace Context (<https://www.w3.org/TR/trace-context/>). Returns `None` if
/// `traceparent` is missing or invalid; a new trace begins then.
pub(crate) fn caller_span(headers: &HeaderMap) -> Option<SpanContext> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let (Some(parent), None) = (values.next(), values.next()) else {
        // Two headers are invalid.
        return None;
    };
    otlp::parent_span(parent.to_str().ok()?, trace_state(headers).as_deref())
}

/// Joins all values of `tracestate`, as W3C Trace Context requires.
fn trace_state(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(TRACESTATE).iter();
    let values: Vec<&str> = values.map(|it| it.to_str().ok()).collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.join(","))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn duplicate_traceparent_is_ignored() {
        let mut headers = HeaderMap::new();
        assert_eq!(caller_span(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(caller_span(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(caller_span(&headers), None);
    }

    #[test]
    fn tracestate_headers_are_joined_and_invalid_ones_ignored() {
        let state = |values: &[&'static str]| {
            let parent = [(TRACEPARENT, HeaderValue::from_static(GOOD))];
            let states = values.iter().map(|it| HeaderValue::from_static(it));
            let headers = parent.into_iter().chain(states.map(|it| (TRACESTATE, it)));
            let span = caller_span(&headers.collect()).unwrap();
            span.trace_state().header()
        };
        assert_eq!(state(&[]), "");
        assert_eq!(state(&["a=1,b=2", "c=3"]), "a=1,b=2,c=3");
        assert_eq!(state(&["no state"]), "");
    }
}
