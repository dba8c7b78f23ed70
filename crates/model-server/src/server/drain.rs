use axum::http::{HeaderMap, HeaderValue, header};

use crate::state::ServerState;

/// Adds `Connection: close` while the server drains, so that the client does not send its next request over a
/// connection that is about to close.
pub(crate) fn close_when_draining(state: &ServerState, headers: &mut HeaderMap) {
    if state.phase.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
