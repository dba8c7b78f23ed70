use std::sync::Arc;

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use tokio::time;

use super::{ask::Deadline, error::ApiError};
use crate::{
    room::{Budget, Room},
    state::ServerState,
};

/// How much of a body that is not wanted is read all the same, beyond the limit.
///
/// A server that answers and hangs up while the router still sends looks broken to it, and one
/// client with a large body would have the release counted as failing. Above the router's limit.
const DISCARD: usize = 16 * 1024 * 1024;

/// A whole body, and the room that it takes, if it is large.
pub(super) type Whole = (Bytes, Option<Arc<Room>>);

/// Reads a whole body, if it is no larger than the server takes and comes in time.
pub(super) async fn read(
    state: &ServerState,
    body: Body,
    deadline: Deadline,
) -> Result<Whole, ApiError> {
    let reading = read_all(body, state.max_body_bytes, &state.budget);
    let read = deadline.bound(reading).await;
    read.unwrap_or(Err(ApiError::BodyTimeout(deadline.after())))
}

async fn read_all(mut body: Body, limit: usize, budget: &Arc<Budget>) -> Result<Whole, ApiError> {
    let mut whole = Vec::new();
    let mut length = 0_usize;
    let mut room = Room::of(budget);
    let mut fits = true;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ApiError::BodyUnreadable(error.to_string()))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        fits = fits && length <= limit && room.grow_to(length);
        if fits {
            whole.extend_from_slice(&data);
        } else if length > limit.saturating_add(DISCARD) {
            break;
        } else {
            whole = Vec::new();
        }
    }
    if length > limit {
        return Err(ApiError::BodyTooLarge { limit });
    }
    if !fits {
        return Err(ApiError::NoRoom);
    }
    Ok((whole.into(), room.shared()))
}

/// Refuses a request whose body nobody has read: only when the client has sent it.
pub(super) async fn refuse(state: &ServerState, body: Body, error: ApiError) -> ApiError {
    discard(state, body).await;
    error
}

/// For routes that take no body: what a client sends all the same is read before it is answered.
pub(super) async fn ignore(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    discard(&state, body).await;
    next.run(Request::from_parts(head, Body::empty())).await
}

async fn discard(state: &ServerState, mut body: Body) {
    let mut left = DISCARD;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(less) = left.checked_sub(length) else {
                return;
            };
            left = less;
        }
    };
    // Whoever sends too slowly is answered before the end.
    let _ = time::timeout(state.request_timeout, reading).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(body: &str, limit: usize, room: usize) -> Result<Whole, ApiError> {
        read_all(Body::from(body.to_owned()), limit, &Budget::new(room)).await
    }

    #[tokio::test]
    async fn a_body_up_to_the_limit_is_read_whole() {
        assert_eq!(read("12345", 5, 100).await.unwrap().0, "12345");
    }

    #[tokio::test]
    async fn a_larger_body_is_refused_with_the_limit() {
        let error = read("123456", 5, 100).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { limit: 5 }));
    }

    #[tokio::test]
    async fn a_body_for_which_there_is_no_room_is_to_be_sent_again() {
        let large = "x".repeat(50_000);
        let error = read(&large, 100_000, 40_000).await.unwrap_err();
        assert!(matches!(error, ApiError::NoRoom));
        let (body, room) = read(&large, 100_000, 60_000).await.unwrap();
        assert!(body.len() == 50_000 && room.is_some());
    }
}
