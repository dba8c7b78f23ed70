//! What the HTTP interfaces of `deployer store` and `deployer agent` share: the token, bounds, and errors as JSON.

use std::{fmt, net::SocketAddr, time::Duration};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::net::TcpListener;

use crate::adapters::token_file::TokenFile;

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 1 << 20;
/// How long a request may take, with its body.
const MAX_DURATION: Duration = Duration::from_mins(1);

/// An error with its status, answered as `{"error":"…"}`.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl fmt::Display) -> Self {
        Self {
            status,
            message: message.to_string(),
        }
    }

    /// Returns the error of a request that is not valid.
    pub(crate) fn invalid(message: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.message }))).into_response()
    }
}

/// A body of JSON, whatever its type says. It is bounded.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ApiError::new(error.status(), error.body_text()))?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("the body is not valid: {error}")))
    }
}

/// Adds to `routes` what both interfaces need: only requests with the token pass, each ends in time, and an unknown path is an
/// error as JSON.
pub(crate) fn protected(routes: Router, token: TokenFile) -> Router {
    routes
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "unknown path"))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path has no such method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(token, check_token))
}

async fn check_token(State(token): State<TokenFile>, request: Request, next: Next) -> Response {
    match token.accepts(request.headers()) {
        Ok(true) => {}
        Ok(false) => {
            let message = "this request needs the header `Authorization: Bearer TOKEN` with a token of the token file";
            return ApiError::new(StatusCode::UNAUTHORIZED, message).into_response();
        }
        Err(error) => {
            return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error).into_response();
        }
    }
    let answer = tokio::time::timeout(MAX_DURATION, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let message = format!("the request took longer than {MAX_DURATION:?}");
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, message).into_response()
    })
}

/// Listens at `address`, to serve `what`.
pub(crate) async fn listen(what: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("cannot serve {what} at {address}: {error}"))
}
