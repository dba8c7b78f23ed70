use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    extract::Request,
    http::{self, HeaderName, HeaderValue},
};
use tower_http::request_id::{MakeRequestId, RequestId};

/// By which header a request is named, in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer ones are somebody's attempt to fill the log.
const LONGEST: usize = 128;

/// Removes an ID that cannot stand in a log, so that the request gets a new one.
pub(crate) fn remove_unusable(mut request: Request) -> Request {
    let given = request.headers().get(X_REQUEST_ID);
    if given.is_some_and(|id| !is_sane(id.as_bytes())) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Makes IDs of 16 hexadecimal digits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &http::Request<B>) -> Option<RequestId> {
        Some(RequestId::new(new_id()))
    }
}

fn is_sane(id: &[u8]) -> bool {
    (1..=LONGEST).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// Differs from all others of this process, and most likely from those of any other.
fn new_id() -> HeaderValue {
    /// `RandomState` is where the standard library keeps its randomness.
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one("request")));
    // The golden ratio's steps and SplitMix64's mixer: each number once, and none like the last.
    let number = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let bytes = (number ^ (number >> 31)).to_be_bytes();
    // By hand: formatting would cost more than the rest of the name.
    let id: [u8; 16] = std::array::from_fn(|place| {
        let byte = bytes[place / 2];
        let digit = if place % 2 == 0 {
            byte >> 4
        } else {
            byte & 0xf
        };
        b"0123456789abcdef"[usize::from(digit)]
    });
    HeaderValue::from_bytes(&id).unwrap_or_else(|_| HeaderValue::from_static("unnamed"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axum::body::Body;

    use super::*;

    fn stays(id: &[u8]) -> bool {
        let request = Request::builder().header(X_REQUEST_ID, id);
        let request = remove_unusable(request.body(Body::empty()).unwrap());
        request.headers().contains_key(X_REQUEST_ID)
    }

    #[test]
    fn a_sane_id_stays() {
        for id in ["7", "a-b_c.d:e/f", &"x".repeat(LONGEST)] {
            assert!(stays(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn an_id_that_cannot_stand_in_a_log_is_removed() {
        for id in [&b""[..], b"a b", b"a\tb", b"\xff", &[b'x'; LONGEST + 1]] {
            assert!(!stays(id), "{id:?}");
        }
    }

    #[test]
    fn no_two_made_ids_are_the_same() {
        let ids: HashSet<_> = (0..10_000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
