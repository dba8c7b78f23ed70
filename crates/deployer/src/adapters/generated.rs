//! Reads generated text from answers: whole documents, and streams of server-sent events.

use std::error::Error as _;

use bytes::Buf as _;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    body::{Body, Bytes},
    header::{CONTENT_TYPE, HeaderMap},
};
use sse_stream::SseByteStream;
use thiserror::Error;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    config::StreamSettings,
    evidence::stream::{AnswerFailure, StreamAnswer, StreamReader, text_of_document},
};

/// The longest answer. More than any test input should make a model write.
const MAX_BYTES: usize = 16 << 20;

/// Why the bytes of a stream ended early.
#[derive(Debug, Error)]
enum ReadError {
    #[error("more than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the connection broke")]
    Broken,
}

/// Reads a stream to its end, and at most as long as the settings say. `began` is when the request was sent, or was due.
pub(super) async fn read_stream<B>(
    settings: &StreamSettings,
    began: Instant,
    headers: &HeaderMap,
    body: B,
) -> Result<StreamAnswer, AnswerFailure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let content_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let content_type = content_type.unwrap_or_default();
    if !content_type
        .trim()
        .to_ascii_lowercase()
        .starts_with("text/event-stream")
    {
        let content_type = content_type.to_owned();
        return Err(AnswerFailure::NotAStream { content_type });
    }
    let mut read = 0;
    let bytes = http_body_util::BodyDataStream::new(body).map(move |part| match part {
        Ok(part) => {
            read += part.remaining();
            if read > MAX_BYTES {
                Err(ReadError::TooLarge)
            } else {
                Ok(part)
            }
        }
        Err(_) => Err(ReadError::Broken),
    });
    let mut events = SseByteStream::new(bytes);
    let mut reader = StreamReader::new(settings);
    let deadline = began.max(Instant::now()) + settings.max_duration;
    while !reader.has_ended() {
        let silence = Instant::now() + settings.max_silence;
        let Ok(event) = timeout_at(silence.min(deadline), events.next()).await else {
            let tokens = reader.tokens();
            return Err(if silence < deadline {
                let limit = settings.max_silence;
                AnswerFailure::Silent { tokens, limit }
            } else {
                let limit = settings.max_duration;
                AnswerFailure::NeverEnded { tokens, limit }
            });
        };
        match event {
            // A block of comments or of other fields has no data.
            Some(Ok(event)) => {
                if let Some(data) = &event.data {
                    reader.read(began.elapsed(), event.event.as_deref(), data)?;
                }
            }
            Some(Err(error)) => return Err(failure(&error, &reader)),
            None => break,
        }
    }
    let took = began.elapsed();
    // The connection is free for the next request when the answer ends. If it does not, it is closed.
    let _ = timeout(CLOSE, async { while events.next().await.is_some() {} }).await;
    reader.finish(took)
}

/// How long an answer may take to end after its end mark.
const CLOSE: std::time::Duration = std::time::Duration::from_millis(500);

fn failure(error: &sse_stream::Error, reader: &StreamReader<'_>) -> AnswerFailure {
    let read_error = match error {
        sse_stream::Error::Body(error) => error.downcast_ref::<ReadError>(),
        _ => error.source().and_then(|error| error.downcast_ref()),
    };
    match read_error {
        Some(ReadError::TooLarge) => AnswerFailure::TooLarge { limit: MAX_BYTES },
        Some(ReadError::Broken) => reader.cut(),
        None => AnswerFailure::Invalid(error.to_string()),
    }
}

/// Reads a document with generated text. `None` if the connection breaks first.
pub(super) async fn read_document<B>(body: B) -> Option<Result<String, AnswerFailure>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match Limited::new(body, MAX_BYTES).collect().await {
        Ok(body) => Some(text_of_bytes(&body.to_bytes())),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            Some(Err(AnswerFailure::TooLarge { limit: MAX_BYTES }))
        }
        Err(_) => None,
    }
}

fn text_of_bytes(body: &[u8]) -> Result<String, AnswerFailure> {
    let body = serde_json::from_slice(body)
        .map_err(|error| AnswerFailure::Invalid(format!("it is not JSON: {error}")))?;
    text_of_document(&body)
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use futures_util::stream;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use tokio::time::sleep;

    use super::*;

    fn settings() -> StreamSettings {
        let given = [
            "probe.stream.max_silence=5s",
            "probe.stream.max_duration=30s",
        ];
        let given = given.map(str::to_owned);
        crate::config::load(None, &given).unwrap().probe.stream
    }

    /// Reads a stream of parts, each of which comes one second after the one before. It stays open if `open`.
    async fn read(parts: Vec<Bytes>, open: bool) -> Result<StreamAnswer, AnswerFailure> {
        let parts = stream::iter(parts).then(|part| async {
            sleep(Duration::from_secs(1)).await;
            Ok::<_, Infallible>(Frame::data(part))
        });
        let end = stream::once(async move {
            if open {
                std::future::pending::<()>().await;
            }
            Ok(Frame::data(Bytes::new()))
        });
        let body = StreamBody::new(Box::pin(parts.chain(end)));
        let mut headers = HeaderMap::new();
        headers.insert(
            CONTENT_TYPE,
            "text/event-stream; charset=utf-8".parse().unwrap(),
        );
        read_stream(&settings(), Instant::now(), &headers, body).await
    }

    const EVENTS: &str = ": ping\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"ä\"}}]}\r\n\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"},\"finish_reason\":\"stop\"}]}\n\nid: 1\nretry: 5\n\ndata:[DONE]\r\n\r\n";

    #[tokio::test(start_paused = true)]
    async fn events_are_read_wherever_the_parts_are_split() {
        for at in 0..EVENTS.len() {
            let (first, second) = EVENTS.as_bytes().split_at(at);
            let parts = [first, second].map(Bytes::copy_from_slice).to_vec();
            let answer = read(parts, false).await.unwrap();
            assert_eq!(answer.text, "äb", "split at {at}");
        }
        let bytes = EVENTS.as_bytes().chunks(1).map(Bytes::copy_from_slice);
        // So many parts take longer than a stream may.
        let parts = bytes.collect();
        assert_eq!(
            read(parts, false).await.unwrap_err().kind(),
            "stream silent"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_endless_streams_are_different_failures() {
        let event =
            Bytes::from_static(b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n");
        let silent = read(vec![event.clone()], true).await.unwrap_err();
        assert_eq!(
            silent.to_string(),
            "the stream was silent for 5s after 1 tokens (probe.stream.max_silence)"
        );
        let endless = read(vec![event.clone(); 100], true).await.unwrap_err();
        assert!(
            endless
                .to_string()
                .starts_with("the stream never ended: it went on for 30s and had "),
            "{endless}"
        );
        let cut = read(vec![event; 3], false).await.unwrap_err();
        assert_eq!(
            cut.to_string(),
            "the stream was cut after 3 tokens, before its finish reason and [DONE]"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn stream_without_a_line_end_is_read_up_to_a_limit() {
        let large = Bytes::from(vec![b'a'; 4 << 20]);
        let failure = read(vec![large; 6], true).await.unwrap_err();
        // The comment that pings is missing, so that silence may come first.
        assert!(
            ["answer too large", "stream silent"].contains(&failure.kind()),
            "{failure}"
        );
    }

    #[tokio::test]
    async fn document_in_place_of_a_stream_is_a_failure_of_its_own() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "application/json".parse().unwrap());
        let body = http_body_util::Full::new(Bytes::from_static(b"{}"));
        let failure = read_stream(&settings(), Instant::now(), &headers, body).await;
        assert_eq!(failure.unwrap_err().kind(), "not a stream");
    }
}
