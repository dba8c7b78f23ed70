use std::fmt;

use axum::http::{HeaderMap, HeaderName};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Length of a version 00 header, and of the fields that later versions must start with.
const LENGTH: usize = 55;

/// The caller's span, by W3C Trace Context (<https://www.w3.org/TR/trace-context/>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    /// The trace of the request.
    pub(crate) trace: TraceId,
    /// The caller's span.
    pub(crate) span: u64,
    /// Whether the caller records its span.
    pub(crate) sampled: bool,
}

/// A trace ID, displayed as W3C Trace Context writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceId(pub(crate) u128);

impl fmt::Display for TraceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:032x}", self.0)
    }
}

impl TraceParent {
    /// Reads `traceparent`. Returns `None` if it is missing or invalid; a new trace begins then.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        match (values.next(), values.next()) {
            (Some(value), None) => Self::parse(value.as_bytes()),
            // Two headers are invalid.
            _ => None,
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (fields, rest) = value.split_at_checked(LENGTH)?;
        let dashes = [2, 35, 52].iter().all(|place| fields[*place] == b'-');
        let version = number(&fields[..2])?;
        // Later versions may append fields.
        let whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest[0] == b'-',
        };
        let trace = number(&fields[3..35])?;
        let span = u64::try_from(number(&fields[36..52])?).ok()?;
        let flags = number(&fields[53..])?;
        (dashes && whole && trace != 0 && span != 0).then_some(Self {
            trace: TraceId(trace),
            span,
            sampled: flags & 1 == 1,
        })
    }
}

/// Parses hexadecimal digits; only lower case is valid.
fn number(digits: &[u8]) -> Option<u128> {
    let small = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    let digits = std::str::from_utf8(digits).ok()?;
    digits
        .bytes()
        .all(|digit| small(&digit))
        .then(|| u128::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::proptest;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn traceparent_has_trace_span_and_flags() {
        let parent = TraceParent::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span, 0x00f0_67aa_0ba9_02b7);
        assert!(parent.sampled);
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let value = format!("{}{flags}", &GOOD[..53]);
            assert_eq!(
                TraceParent::parse(value.as_bytes()).unwrap().sampled,
                sampled
            );
        }
    }

    #[test]
    fn later_traceparent_versions_are_accepted() {
        for value in [
            format!("01{}", &GOOD[2..]),
            format!("cc{}-what-will-be", &GOOD[2..]),
            format!("fe{}-", &GOOD[2..]),
        ] {
            assert!(TraceParent::parse(value.as_bytes()).is_some(), "{value}");
        }
        let glued = format!("01{}x", &GOOD[2..]);
        assert_eq!(TraceParent::parse(glued.as_bytes()), None);
    }

    #[test]
    fn invalid_traceparent_is_ignored() {
        for value in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}0"),
            &format!("{GOOD}-00"),
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &GOOD.replace("4bf9", "+bf9"),
            &GOOD.replace("4bf9", "4bg9"),
            &format!("ff{}", &GOOD[2..]),
            &format!("0x{}", &GOOD[2..]),
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
        ] {
            assert_eq!(TraceParent::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn duplicate_traceparent_is_ignored() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(TraceParent::of(&headers).is_some());
        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        assert_eq!(TraceParent::of(&headers), None);
    }

    proptest! {
        #[test]
        fn traceparent_parser_never_panics(value in proptest::collection::vec(0_u8.., 0..80)) {
            let _ = TraceParent::parse(&value);
        }

        #[test]
        fn traceparent_round_trips(trace in 1_u128.., span in 1_u64.., flags in 0_u8..) {
            let value = format!("00-{trace:032x}-{span:016x}-{flags:02x}");
            let sampled = flags & 1 == 1;
            let parent = TraceParent { trace: TraceId(trace), span, sampled };
            assert_eq!(TraceParent::parse(value.as_bytes()), Some(parent));
        }
    }
}
