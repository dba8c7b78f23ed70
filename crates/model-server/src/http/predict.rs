use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, header},
};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{body, error::ApiError};
use crate::{
    state::ServerState,
    text::TextError,
    worker::{Classification, ClassifyError, Job, PushError},
};

/// The field that holds the text.
const TEXT: &str = "text";

#[derive(Serialize)]
pub(super) struct PredictResponse {
    prediction: String,
    confidence: f32,
    model_version: String,
}

/// `POST /predict {"text": "…"}`: the most likely label and its softmax probability.
///
/// Other fields of the object are ignored, so that a client may talk to a newer server too.
pub(super) async fn predict(
    State(state): State<Arc<ServerState>>,
    request: Request,
) -> Result<Json<PredictResponse>, ApiError> {
    let deadline = Instant::now() + state.request_timeout;
    let (head, body) = request.into_parts();
    expect_json(&head.headers)?;
    let body = timeout_at(deadline, body::read(body, state.max_body_bytes))
        .await
        .map_err(|_| ApiError::BodyTimeout(state.request_timeout))??;
    let text = text_of(&body)?;
    let answer = classify(&state, text, deadline).await?;
    Ok(Json(PredictResponse {
        prediction: answer.label,
        confidence: answer.confidence,
        model_version: state.model_version.clone(),
    }))
}

fn expect_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Err(ApiError::ContentType("missing".to_owned()));
    };
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case("application/json") {
        Ok(())
    } else {
        Err(ApiError::ContentType(essence.to_owned()))
    }
}

fn text_of(body: &[u8]) -> Result<String, ApiError> {
    if body.trim_ascii().is_empty() {
        return Err(ApiError::NoBody);
    }
    let wrong = |problem: String| ApiError::Field {
        field: TEXT,
        problem,
    };
    let mut object = match serde_json::from_slice(body).map_err(ApiError::Json)? {
        Value::Object(object) => object,
        other => return Err(ApiError::NotAnObject(kind_of(&other))),
    };
    match object.remove(TEXT) {
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(wrong("text is blank; expected some words".to_owned()))
        }
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(wrong(format!(
            "text is {}; expected a string",
            kind_of(&other)
        ))),
        None => Err(wrong("text is missing; expected a string".to_owned())),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Has a worker answer `text`. A client that leaves takes its text out of the queue with it.
async fn classify(
    state: &ServerState,
    text: String,
    deadline: Instant,
) -> Result<Classification, ApiError> {
    let Some(serving) = state.serving.get() else {
        return Err(unavailable(state));
    };
    let (answer, answered) = oneshot::channel();
    serving
        .queue
        .push(Job { text, answer })
        .map_err(|refusal| match refusal {
            PushError::Full => ApiError::QueueFull,
            PushError::Closed => unavailable(state),
        })?;
    match timeout_at(deadline, answered).await {
        Ok(Ok(result)) => result.map_err(refused),
        Ok(Err(_)) => Err(unavailable(state)),
        Err(_) => Err(ApiError::Timeout(state.request_timeout)),
    }
}

fn unavailable(state: &ServerState) -> ApiError {
    let reason = state.phase.get().unhealthy_reason();
    ApiError::Unavailable(reason.unwrap_or_else(|| "no inference worker is left".to_owned()))
}

fn refused(error: ClassifyError) -> ApiError {
    match error {
        ClassifyError::Text(TextError::NoTokens) => ApiError::Field {
            field: TEXT,
            problem: error.to_string(),
        },
        other => ApiError::Internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> String {
        text_of(body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn text_is_taken_out_of_the_object_and_other_fields_are_ignored() {
        let text = text_of(br#"{"id": 7, "text": " as it is ", "more": [1]}"#).unwrap();
        assert_eq!(text, " as it is ");
    }

    #[test]
    fn invalid_json_is_located_by_line_and_column() {
        let message = message("{\n  \"text\": fine}");
        assert!(message.contains("line 2 column 12"), "{message}");
    }

    #[test]
    fn what_stands_in_place_of_the_text_is_named() {
        for (body, expected) in [
            ("{}", "text is missing"),
            (r#"{"text": null}"#, "text is null"),
            (r#"{"text": 7}"#, "text is a number"),
            (r#"{"text": ["a"]}"#, "text is an array"),
            (r#"{"text": ""}"#, "text is blank"),
            (r#"{"text": " \n\t"}"#, "text is blank"),
            (r#"["text"]"#, "the body is an array"),
            (r#""text""#, "the body is a string"),
            (" ", "the body is empty"),
        ] {
            let message = message(body);
            assert!(message.starts_with(expected), "{body}: {message}");
        }
    }
}
