use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{Request, State},
    http::{Version, header},
    middleware::Next,
    response::Response,
};
use http_body_util::BodyExt as _;
use tokio::{task, time};

use crate::{
    api::{deadline::Deadline, error::ApiError},
    memory_budget::{MemoryBudget, MemoryReservation},
    server::decompress::SentBody,
    state::ServerState,
};

/// How much of an unwanted body is read beyond the limit. It is more than the router's own limit.
///
/// To nginx, a server that answers and closes while the request is still being sent looks broken. One client
/// with a large body would make the release look failing.
const MAX_DISCARDED_BYTES: usize = 16 * 1024 * 1024;

/// A whole body, and its memory reservation if it is large.
pub(crate) type BufferedBody = (Bytes, Option<Arc<MemoryReservation>>);

/// Reads a whole body, up to the server's size limit and the deadline. For a compressed body, decompressed
/// bytes count.
///
/// tower-http's body limit would answer before the client has sent the rest, and its timeout does not know the
/// client's own deadline.
pub(crate) async fn read(
    state: &ServerState,
    request: &mut Request,
    deadline: Deadline,
) -> Result<BufferedBody, ApiError> {
    let limit = state.limits.max_body_bytes;
    let reading = async {
        if let Some(error) = error_of_head(request, limit) {
            discard_if_sent(request).await;
            return Err(error);
        }
        let sent = request.extensions_mut().remove::<SentBody>();
        let body = mem::take(request.body_mut());
        match sent {
            None => read_plain(body, limit, &state.memory_budget).await,
            Some(sent) => read_decompressed(body, sent, limit, &state.memory_budget).await,
        }
    };
    let read = deadline.bound(reading).await;
    read.unwrap_or(Err(ApiError::BodyTimeout(deadline.after())))
}

/// Returns why a body is refused before it is read.
fn error_of_head(request: &Request, limit: usize) -> Option<ApiError> {
    match request.extensions().get::<SentBody>() {
        Some(sent) if sent.is_unknown() => {
            Some(ApiError::ContentEncoding(sent.encoding().to_owned()))
        }
        // The limit is for decompressed bytes.
        Some(_) => None,
        None => {
            let length = request.body().size_hint().lower();
            let fits = usize::try_from(length).is_ok_and(|length| length <= limit);
            (!fits).then_some(ApiError::BodyTooLarge { limit })
        }
    }
}

async fn read_plain(
    mut body: Body,
    limit: usize,
    memory_budget: &Arc<MemoryBudget>,
) -> Result<BufferedBody, ApiError> {
    let length = match collect(&mut body, limit, memory_budget).await {
        Ok(whole) => return Ok(whole),
        Err(Unread::Error(error)) => return Err(ApiError::BodyUnreadable(error.to_string())),
        Err(Unread::TooLarge { length } | Unread::MemoryExhausted { length }) => length,
    };
    // The body may also exceed the size limit; then a retry would be useless.
    if length.saturating_add(discard(body).await) > limit {
        return Err(ApiError::BodyTooLarge { limit });
    }
    Err(ApiError::MemoryExhausted)
}

async fn read_decompressed(
    mut body: Body,
    sent: SentBody,
    limit: usize,
    memory_budget: &Arc<MemoryBudget>,
) -> Result<BufferedBody, ApiError> {
    let error = match collect(&mut body, limit, memory_budget).await {
        Ok(whole) => return Ok(whole),
        Err(Unread::TooLarge { .. }) => ApiError::BodyTooLarge { limit },
        Err(Unread::MemoryExhausted { .. }) => ApiError::MemoryExhausted,
        Err(Unread::Error(error)) => ApiError::Compressed {
            encoding: sent.encoding().to_owned(),
            reason: error.to_string(),
        },
    };
    // A few compressed bytes may expand to gigabytes, so the rest is discarded without decompression.
    drop(body);
    discard(Body::new(sent)).await;
    Err(error)
}

/// Why a body was not read to its end.
enum Unread {
    TooLarge { length: usize },
    MemoryExhausted { length: usize },
    Error(axum::Error),
}

async fn collect(
    body: &mut Body,
    limit: usize,
    memory_budget: &Arc<MemoryBudget>,
) -> Result<BufferedBody, Unread> {
    // Most bodies are a single frame, which is used without a copy.
    let mut first = Bytes::new();
    let mut joined = Vec::new();
    let mut length = 0_usize;
    let mut reservation = MemoryReservation::empty(memory_budget);
    while !body.is_end_stream() {
        let Some(frame) = body.frame().await else {
            break;
        };
        let Ok(data) = frame.map_err(Unread::Error)?.into_data() else {
            continue;
        };
        length = length.saturating_add(data.len());
        if length > limit {
            return Err(Unread::TooLarge { length });
        }
        if !reservation.try_grow_to(length) {
            return Err(Unread::MemoryExhausted { length });
        }
        if length == data.len() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            joined.extend_from_slice(&mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
        // Decompression always has its next frame ready, so it must yield to other requests.
        task::consume_budget().await;
    }
    let whole = if joined.is_empty() {
        first
    } else {
        joined.into()
    };
    Ok((whole, reservation.into_shared()))
}

/// Refuses a request whose body was not read, after the client has sent it.
pub(crate) async fn refuse(state: &ServerState, mut request: Request, error: ApiError) -> ApiError {
    let _ = time::timeout(state.limits.request_timeout, discard_if_sent(&mut request)).await;
    error
}

/// A body that the client sends only after `100 Continue`. hyper sends that as soon as the body is read.
///
/// It is in the extensions of the request, so that the response can close the connection if the body was skipped.
#[derive(Debug, Clone)]
pub(crate) struct ExpectedBody {
    is_skipped: Arc<AtomicBool>,
}

impl ExpectedBody {
    /// Returns `None` if the client sends the body without waiting.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        let expectation = request.headers().get(header::EXPECT)?;
        let waits = request.version() >= Version::HTTP_11
            && expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
        waits.then(|| Self {
            is_skipped: Arc::default(),
        })
    }

    /// Whether the request was refused before its body was read.
    pub(crate) fn is_skipped(&self) -> bool {
        self.is_skipped.load(Ordering::Relaxed)
    }
}

/// Discards the body of a refused request, unless the client sends it only if the request is accepted.
async fn discard_if_sent(request: &mut Request) {
    match request.extensions().get::<ExpectedBody>() {
        Some(expected) => expected.is_skipped.store(true, Ordering::Relaxed),
        None => _ = discard(take_sent(request)).await,
    }
}

/// For routes without a body: discards what the client sends anyway.
pub(crate) async fn discard_unread(
    State(state): State<Arc<ServerState>>,
    mut request: Request,
    next: Next,
) -> Response {
    if !request.body().is_end_stream() {
        let body = take_sent(&mut request);
        let _ = time::timeout(state.limits.request_timeout, discard(body)).await;
    }
    next.run(request).await
}

/// Takes the body as the client sends it, without decompression.
fn take_sent(request: &mut Request) -> Body {
    let body = mem::take(request.body_mut());
    let sent = request.extensions_mut().remove::<SentBody>();
    sent.map_or(body, Body::new)
}

/// Discards the rest of a body, up to [`MAX_DISCARDED_BYTES`], and returns its length.
async fn discard(mut body: Body) -> usize {
    let mut length = 0_usize;
    while length <= MAX_DISCARDED_BYTES
        && let Some(Ok(frame)) = body.frame().await
    {
        length = length.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
    length
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(body: &str, limit: usize, reservation: usize) -> Result<BufferedBody, ApiError> {
        read_plain(
            Body::from(body.to_owned()),
            limit,
            &MemoryBudget::new(reservation),
        )
        .await
    }

    #[tokio::test]
    async fn body_up_to_the_limit_is_read() {
        assert_eq!(read("12345", 5, 100).await.unwrap().0, "12345");
    }

    #[tokio::test]
    async fn body_larger_than_limit_is_refused() {
        let error = read("123456", 5, 100).await.unwrap_err();
        assert!(matches!(error, ApiError::BodyTooLarge { limit: 5 }));
    }

    #[tokio::test]
    async fn body_beyond_memory_budget_can_be_retried() {
        let large = "x".repeat(50_000);
        let error = read(&large, 100_000, 40_000).await.unwrap_err();
        assert!(matches!(error, ApiError::MemoryExhausted));
        let (body, reservation) = read(&large, 100_000, 60_000).await.unwrap();
        assert!(body.len() == 50_000 && reservation.is_some());
    }
}
