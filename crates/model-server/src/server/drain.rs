use axum::http::{HeaderMap, HeaderValue, header};

use crate::state::ServerState;

/// Asks the client to open another connection once the server was told to stop, so that it does not
/// send its next request into a connection that is about to be closed.
pub(crate) fn close_when_draining(state: &ServerState, headers: &mut HeaderMap) {
    if state.phase.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
