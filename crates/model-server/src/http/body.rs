use axum::body::{Body, Bytes};
use http_body_util::BodyExt as _;

use super::{ask::Deadline, error::ApiError};

/// How much of a body that is too large is read all the same, beyond the limit.
///
/// A server that answers and hangs up while the router still sends looks broken to it, and one
/// client with a large body would have the release counted as failing. Above the router's limit.
const DISCARD: usize = 16 * 1024 * 1024;

/// Reads a whole body of at most `limit` bytes, if it comes in time.
pub(super) async fn read(body: Body, limit: usize, deadline: Deadline) -> Result<Bytes, ApiError> {
    let read = deadline.bound(read_all(body, limit)).await;
    read.unwrap_or(Err(ApiError::BodyTimeout(deadline.after())))
}

async fn read_all(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let mut whole = Vec::new();
    let mut length = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyUnreadable(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length <= limit {
            whole.extend_from_slice(&data);
        } else if length > limit.saturating_add(DISCARD) {
            break;
        }
    }
    if length > limit {
        return Err(ApiError::BodyTooLarge { limit });
    }
    Ok(whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read_whole() {
        assert_eq!(read_all(Body::from("12345"), 5).await.unwrap(), "12345");
    }

    #[tokio::test]
    async fn a_larger_body_is_refused_with_the_limit() {
        let error = read_all(Body::from("123456"), 5).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { limit: 5 }));
    }
}
