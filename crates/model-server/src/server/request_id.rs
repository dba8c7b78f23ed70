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

/// The header of the request ID, in both directions.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longer IDs could flood the log.
const LONGEST: usize = 128;

/// Removes an ID that is too long or not printable, so that the request gets a new one.
pub(crate) fn remove_unusable(mut request: Request) -> Request {
    let given = request.headers().get(X_REQUEST_ID);
    if given.is_some_and(|id| !is_sane(id.as_bytes())) {
        request.headers_mut().remove(X_REQUEST_ID);
    }
    request
}

/// Generates IDs of 16 hexadecimal digits.
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

/// Returns an ID that is unique in this process, and most likely among all processes.
fn new_id() -> HeaderValue {
    /// `RandomState` is the standard library's source of randomness.
    static NEXT: LazyLock<AtomicU64> =
        LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one("request")));
    // SplitMix64 (Steele, Lea, and Flood, 2014): a Weyl sequence and a mixer; each number occurs once.
    let number = NEXT.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let bytes = (number ^ (number >> 31)).to_be_bytes();
    // Written by hand, because formatting would cost more than the rest of this function.
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
    fn usable_request_id_is_kept() {
        for id in ["7", "a-b_c.d:e/f", &"x".repeat(LONGEST)] {
            assert!(stays(id.as_bytes()), "{id}");
        }
    }

    #[test]
    fn unusable_request_id_is_removed() {
        for id in [&b""[..], b"a b", b"a\tb", b"\xff", &[b'x'; LONGEST + 1]] {
            assert!(!stays(id), "{id:?}");
        }
    }

    #[test]
    fn generated_request_ids_are_unique() {
        let ids: HashSet<_> = (0..10_000).map(|_| new_id()).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
