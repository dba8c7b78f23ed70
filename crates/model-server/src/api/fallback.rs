use std::{any::Any, sync::Arc};

use axum::{
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};

use crate::{
    api::{body, error::ApiError},
    panic_message::panic_message,
    state::ServerState,
};

/// Answers paths without a route.
pub(crate) async fn unknown_path(
    State(state): State<Arc<ServerState>>,
    request: Request,
) -> ApiError {
    let path = request.uri().path().to_owned();
    body::refuse(&state, request, ApiError::UnknownPath { path }).await
}

/// Answers a known path with an unknown method. The router adds `Allow`.
pub(crate) async fn wrong_method(
    State(state): State<Arc<ServerState>>,
    request: Request,
) -> ApiError {
    let method = request.method().clone();
    body::refuse(&state, request, ApiError::WrongMethod { method }).await
}

/// Answers a request whose handler panicked.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the layer hands the panic over"
)]
pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let reason = panic_message(panic.as_ref());
    ApiError::Internal(format!("the handler panicked: {reason}")).into_response()
}
