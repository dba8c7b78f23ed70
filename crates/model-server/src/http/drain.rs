use axum::{
    http::{HeaderValue, header},
    response::Response,
};

use crate::{phase::Phase, state::ServerState};

/// Asks the client to open another connection once the server was told to stop, so that it does not
/// send its next request into a connection that is about to be closed.
pub(super) fn let_go(state: &ServerState, response: &mut Response) {
    if state.phase.get() == Phase::Draining {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
}
