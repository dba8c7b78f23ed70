//! The caller's span, by W3C Trace Context (<https://www.w3.org/TR/trace-context/>).

use opentelemetry::{
    Context,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanContext, TraceContextExt as _},
};
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// Length of a version 00 header, and of the fields that later versions must start with.
const LENGTH: usize = 55;

/// Returns the span that `traceparent` and `tracestate` name; `None` if `traceparent` is invalid.
#[must_use]
pub fn parent_span(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    if !is_well_formed(traceparent) {
        return None;
    }
    let fields = Fields {
        traceparent,
        tracestate,
    };
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &fields);
    let span = context.span().span_context().clone();
    span.is_valid().then_some(span)
}

/// Whether `traceparent` has the right digits and lengths. The propagator also accepts numbers of other lengths or
/// with a plus sign, a version in upper case, and a dash at the end.
fn is_well_formed(parent: &str) -> bool {
    let Some((fields, rest)) = parent.as_bytes().split_at_checked(LENGTH) else {
        return false;
    };
    let mut places = fields.iter().enumerate();
    let valid = places.all(|(place, byte)| match place {
        2 | 35 | 52 => *byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    });
    // Later versions may append fields.
    valid && (rest.is_empty() || (rest[0] == b'-' && !fields.starts_with(b"00")))
}

/// The two fields, as the propagator reads them.
struct Fields<'a> {
    traceparent: &'a str,
    tracestate: Option<&'a str>,
}

impl Extractor for Fields<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => Some(self.traceparent),
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanId, TraceFlags, TraceState};
    use proptest::proptest;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_has_trace_span_and_flags() {
        let parent = parent_span(GOOD, None).unwrap();
        assert_eq!(
            parent.trace_id().to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(parent.span_id(), SpanId::from(0x00f0_67aa_0ba9_02b7));
        assert!(parent.is_sampled() && parent.is_remote());
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let value = format!("{}{flags}", &GOOD[..53]);
            assert_eq!(parent_span(&value, None).unwrap().is_sampled(), sampled);
        }
    }

    #[test]
    fn later_traceparent_versions_are_accepted() {
        for value in [
            format!("01{}", &GOOD[2..]),
            format!("cc{}-what-will-be", &GOOD[2..]),
            format!("fe{}-", &GOOD[2..]),
        ] {
            assert!(parent_span(&value, None).is_some(), "{value}");
        }
        let glued = format!("01{}x", &GOOD[2..]);
        assert_eq!(parent_span(&glued, None), None);
    }

    #[test]
    fn invalid_traceparent_is_ignored() {
        for value in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}0"),
            &format!("{GOOD}-"),
            &format!("{GOOD}-00"),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("4bf9", "+bf9"),
            &GOOD.replace("4bf9", "4bg9"),
            &format!("ff{}", &GOOD[2..]),
            &format!("0x{}", &GOOD[2..]),
            &format!("0A{}", &GOOD[2..]),
            "00-42-42-1",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(parent_span(value, None), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn traceparent_parser_never_panics(value in ".{0,80}") {
            let _ = parent_span(&value, Some(&value));
        }

        #[test]
        fn traceparent_round_trips(trace in 1_u128.., span in 1_u64.., flags in 0_u8..) {
            let value = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            let sampled = TraceFlags::new(flags) & TraceFlags::SAMPLED;
            let parent = SpanContext::new(trace.into(), span.into(), sampled, true, TraceState::NONE);
            assert_eq!(parent_span(&value, None), Some(parent));
        }
    }
}
