//! Every layer, in its order.

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderName, header},
    middleware,
};
use tower::{Layer as _, ServiceBuilder};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    normalize_path::{NormalizePath, NormalizePathLayer},
    on_early_drop::OnEarlyDropLayer,
    request_id::{PropagateRequestIdLayer, SetRequestIdLayer},
    sensitive_headers::SetSensitiveRequestHeadersLayer,
};

use crate::{
    api::fallback::panicked,
    server::{
        auth::{X_API_KEY, require_key},
        client_disconnect::OnClientDisconnect,
        decompress::DecompressLayer,
        observe::ObserveLayer,
        request_id::{NewRequestId, X_REQUEST_ID, remove_unusable},
    },
    state::ServerState,
};

/// Headers that hold keys.
const SENSITIVE: [HeaderName; 2] = [header::AUTHORIZATION, X_API_KEY];

/// What connections talk to.
pub(crate) type HttpService = NormalizePath<Router>;

/// Puts the layers around all routes. A request passes them from top to bottom, its answer from bottom
/// to top.
///
/// The router applies them after it has found the route, since the counters and the log need its template.
pub(crate) fn around(
    router: Router<Arc<ServerState>>,
    state: &Arc<ServerState>,
) -> Router<Arc<ServerState>> {
    let keys = state
        .keys
        .is_some()
        .then(|| middleware::from_fn_with_state(Arc::clone(state), require_key));
    router.layer(
        ServiceBuilder::new()
            // First, so that nothing below can print a key.
            .layer(SetSensitiveRequestHeadersLayer::new(SENSITIVE))
            // Before the ID is set, which keeps the one that a request has.
            .map_request(remove_unusable)
            // Above everything that logs or answers: each of them needs the ID.
            .layer(SetRequestIdLayer::new(X_REQUEST_ID, NewRequestId))
            // Above everything that answers, so that each answer is counted and logged.
            .layer(ObserveLayer::new(state))
            // Below `ObserveLayer`, which reads the ID of an answer for its log line.
            .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
            // Below `ObserveLayer`, which counts the arrival of what this counts the end of.
            .layer(OnEarlyDropLayer::builder().on_future_drop(OnClientDisconnect::new(state)))
            // Below all that observes a request: a panic is one more answer to them.
            .layer(CatchPanicLayer::custom(panicked))
            // Above decompression: a client without a key cannot make the server decompress.
            .option_layer(keys)
            // Last, so that only the routes see a body other than the one the client sent.
            .layer(DecompressLayer),
    )
}

/// Removes trailing slashes from paths: outside the router, which would not find the route otherwise.
pub(crate) fn normalized(router: Router) -> HttpService {
    NormalizePathLayer::trim_trailing_slash().layer(router)
}

/// Compresses answers for clients that accept it: around the routes with large texts alone. A prediction is
/// smaller than what compression would cost it in time.
pub(crate) fn compression() -> CompressionLayer {
    CompressionLayer::new()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::{
        body::{Body, to_bytes},
        extract::Request,
        http::{HeaderMap, StatusCode},
        response::Response,
        routing::{get, post},
    };
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        metrics::exposition::{Format, exposition},
        server::router::tests::settings,
    };

    /// Routes that the real server has not, with its layers.
    fn service() -> (HttpService, Arc<ServerState>) {
        let state = Arc::new(ServerState::new(&settings(), Instant::now()));
        let routes = Router::new()
            .route(
                "/predict",
                post(async || -> String { panic!("as planned") }),
            )
            .route(
                "/headers",
                get(async |headers: HeaderMap| format!("{headers:?}")),
            );
        let layered = around(routes, &state).with_state(Arc::clone(&state));
        (normalized(layered), state)
    }

    async fn text(response: Response) -> String {
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(body.into()).unwrap()
    }

    #[tokio::test]
    async fn a_panic_is_a_counted_answer_in_json_with_the_id_of_its_request() {
        let (service, state) = service();
        let request = Request::post("/predict").header(X_REQUEST_ID, "as-given");
        let request = request.body(Body::empty()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(response.headers()[X_REQUEST_ID], "as-given");
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(body["error"], "the handler panicked: as planned");
        let counts = state.metrics.counts();
        assert_eq!(
            (counts.requests, counts.errors, counts.in_flight),
            (1, 1, 0)
        );
        let metrics = exposition(state, Format::Prometheus).unwrap();
        for line in [
            r#"model_server_requests_total{route="/predict",method="POST",code="500"} 1"#,
            r#"model_server_errors_total{kind="internal"} 1"#,
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }

    #[tokio::test]
    async fn headers_that_hold_keys_are_marked_before_a_handler_could_print_them() {
        let (service, _) = service();
        let request = Request::get("/headers/")
            .header("authorization", "Bearer a-secret")
            .header("x-api-key", "a-secret")
            .header("x-other", "no-secret");
        let request = request.body(Body::empty()).unwrap();
        let headers = text(service.oneshot(request).await.unwrap()).await;
        assert_eq!(headers.matches("Sensitive").count(), 2, "{headers}");
        assert!(!headers.contains("a-secret"), "{headers}");
        assert!(headers.contains("no-secret"), "{headers}");
    }

    #[tokio::test]
    async fn an_id_that_cannot_stand_in_a_log_is_replaced_for_handlers_too() {
        let (service, _) = service();
        let request = Request::get("/headers").header(X_REQUEST_ID, "not sane");
        let request = request.body(Body::empty()).unwrap();
        let response = service.oneshot(request).await.unwrap();
        let id = response.headers()[X_REQUEST_ID].clone();
        assert_eq!(id.len(), 16);
        let headers = text(response).await;
        assert!(headers.contains(id.to_str().unwrap()), "{headers}");
        assert!(!headers.contains("not sane"), "{headers}");
    }
}
