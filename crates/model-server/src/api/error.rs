use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use thiserror::Error;
use utoipa::{IntoResponses, ToSchema};

use crate::scheduler::stage_times::StageTimes;

/// The usual paths, for the message about an unknown one.
const PATHS: &str = "GET /health, POST /predict, GET /v2, and those in GET /docs";

/// Seconds after which a refused client may retry.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Every way in which a request can fail. The message is sent to the client.
#[derive(Debug, Error)]
pub(crate) enum ApiError {
    #[error("the server cannot answer: {0}")]
    Unavailable(String),
    #[error("the queue is full; retry in a second")]
    QueueFull,
    #[error(
        "the body does not fit into the memory that large bodies in flight leave; retry in a second"
    )]
    MemoryExhausted,
    #[error("no prediction within {0:?}")]
    Timeout(Duration),
    #[error("{0}")]
    Internal(String),
    #[error("this release takes tensors instead of texts; send them to /v2/models/NAME/infer")]
    NoTexts,
    #[error("header x-request-timeout-ms must be a positive integer (milliseconds), got {0:?}")]
    TimeoutHeader(String),
    #[error(
        "the API key is missing or unknown; send one as \"Authorization: Bearer KEY\" or \"X-API-Key: KEY\""
    )]
    NoKey,
    #[error("{asked} is not served here; this server serves {served}")]
    UnknownModel { asked: String, served: String },
    #[error("invalid path: {0}")]
    Path(String),
    #[error("invalid Open Inference Protocol request: {0}")]
    Protocol(serde_json::Error),
    #[error("unknown path {path}; known are {PATHS}")]
    UnknownPath { path: String },
    #[error("{method} is not allowed for this path; known are {PATHS}")]
    WrongMethod { method: Method },
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the body did not arrive within {0:?}")]
    BodyTimeout(Duration),
    #[error("the body could not be read: {0}")]
    BodyUnreadable(String),
    #[error("the body is not valid {encoding}, which content-encoding names: {reason}")]
    Compressed { encoding: String, reason: String },
    #[error("content-encoding is {0}; expected gzip or deflate, or none")]
    ContentEncoding(String),
    #[error("content-type is {0}; expected application/json")]
    ContentType(String),
    #[error("the body is empty; expected a JSON object such as {EXAMPLE}")]
    NoBody,
    #[error("the body is not valid JSON: {0}; expected an object such as {EXAMPLE}")]
    Json(serde_json::Error),
    #[error("the body is {0}; expected a JSON object such as {EXAMPLE}")]
    NotAnObject(&'static str),
    #[error("{problem}")]
    Field {
        field: &'static str,
        problem: String,
    },
    #[error("{problem}")]
    UnknownField { field: String, problem: String },
}

const EXAMPLE: &str = r#"{"text": "a fine film"}"#;

/// A response extension with what metrics and logs need beyond the status.
#[derive(Debug, Clone, Default)]
pub(crate) struct ResponseDetails {
    /// How long each stage took, if the model ran.
    pub(crate) times: Option<StageTimes>,
    /// The kind of error.
    pub(crate) error: Option<&'static str>,
    /// Why the server failed.
    pub(crate) failure: Option<String>,
}

/// Why a request failed.
#[derive(Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What is wrong, as a sentence.
    error: String,
    /// The invalid field of the body, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
}

/// Errors of every route that reads a body.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "these only describe what `ApiError` becomes")]
pub(crate) enum BodyErrors {
    /// The body is invalid. `error` says what is wrong, and `field` names the field.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    Late(ErrorBody),
    /// The body is too large.
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The content type is not the expected one, or the compression is none of those in `Accept-Encoding`.
    #[response(status = 415)]
    Type(ErrorBody),
}

/// Errors of every route.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "these only describe what `ApiError` becomes")]
pub(crate) enum CommonErrors {
    /// API keys are set, and the request has no valid one.
    #[response(status = 401)]
    NoKey(ErrorBody),
    /// The path does not have this method; `Allow` lists its methods.
    #[response(status = 405)]
    Method(ErrorBody),
    /// The server failed; its log has the details.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// The head of the request is too large.
    #[response(status = 431)]
    LargeHead,
}

/// Errors of every route that runs the model.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "these only describe what `ApiError` becomes")]
pub(crate) enum InferenceErrors {
    /// The queue is full, or large bodies in flight use the memory for bodies. Retry after the seconds in
    /// `Retry-After`.
    #[response(status = 429)]
    Full(ErrorBody),
    /// The server is loading, draining, or broken.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// The prediction did not finish in time.
    #[response(status = 504)]
    Timeout(ErrorBody),
}

/// Errors of every route with a model in its path.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "these only describe what `ApiError` becomes")]
pub(crate) enum ModelPathErrors {
    /// The path or the body is invalid.
    #[response(status = 400)]
    Unreadable(ErrorBody),
    /// Another model or version is served.
    #[response(status = 404)]
    Unknown(ErrorBody),
}

impl ApiError {
    /// Maps each error to its status. No other code does.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::QueueFull | Self::MemoryExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::UnknownPath { .. } | Self::UnknownModel { .. } | Self::NoTexts => {
                StatusCode::NOT_FOUND
            }
            Self::NoKey => StatusCode::UNAUTHORIZED,
            Self::WrongMethod { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::BodyTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout(_) => StatusCode::REQUEST_TIMEOUT,
            Self::ContentType(_) | Self::ContentEncoding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TimeoutHeader(_)
            | Self::Path(_)
            | Self::BodyUnreadable(_)
            | Self::Compressed { .. }
            | Self::NoBody
            | Self::Json(_)
            | Self::Protocol(_)
            | Self::NotAnObject(_)
            | Self::Field { .. }
            | Self::UnknownField { .. } => StatusCode::BAD_REQUEST,
        }
    }

    /// The name in metrics and logs.
    fn kind(&self) -> &'static str {
        match self {
            Self::Unavailable(_) => "unavailable",
            Self::QueueFull => "queue_full",
            Self::MemoryExhausted => "memory_exhausted",
            Self::Timeout(_) => "timeout",
            Self::Internal(_) => "internal",
            Self::NoTexts => "no_texts",
            Self::TimeoutHeader(_) => "timeout_header",
            Self::NoKey => "no_key",
            Self::UnknownModel { .. } => "unknown_model",
            Self::Path(_) => "path",
            Self::Protocol(_) => "protocol",
            Self::UnknownPath { .. } => "unknown_path",
            Self::WrongMethod { .. } => "wrong_method",
            Self::BodyTooLarge { .. } => "body_too_large",
            Self::BodyTimeout(_) => "body_timeout",
            Self::BodyUnreadable(_) => "body_unreadable",
            Self::Compressed { .. } => "compressed",
            Self::ContentEncoding(_) => "content_encoding",
            Self::ContentType(_) => "content_type",
            Self::NoBody => "no_body",
            Self::Json(_) => "json",
            Self::NotAnObject(_) => "not_an_object",
            Self::Field { .. } | Self::UnknownField { .. } => "field",
        }
    }

    fn may_retry(&self) -> bool {
        matches!(
            self,
            Self::QueueFull | Self::MemoryExhausted | Self::Unavailable(_)
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind) = (self.status(), self.kind());
        let error = self.to_string();
        let field = match &self {
            Self::Field { field, .. } => Some((*field).to_owned()),
            Self::UnknownField { field, .. } => Some(field.clone()),
            _ => None,
        };
        let details = ResponseDetails {
            times: None,
            error: Some(kind),
            failure: status.is_server_error().then(|| error.clone()),
        };
        let mut response = (status, Json(ErrorBody { error, field })).into_response();
        response.extensions_mut().insert(details);
        let headers = response.headers_mut();
        match self {
            Self::NoKey => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            Self::ContentEncoding(_) => {
                headers.insert(
                    header::ACCEPT_ENCODING,
                    HeaderValue::from_static("gzip, deflate"),
                );
            }
            _ => {}
        }
        if self.may_retry() {
            headers.insert(header::RETRY_AFTER, RETRY_AFTER);
        }
        response
    }
}
