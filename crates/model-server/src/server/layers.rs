//! All layers, in their order.

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

/// Headers that contain keys.
const SENSITIVE: [HeaderName; 2] = [header::AUTHORIZATION, X_API_KEY];

/// The service of a connection.
pub(crate) type HttpService = NormalizePath<Router>;

/// Adds the layers to all routes. A request passes them from top to bottom, its response from bottom to top.
///
/// The router runs them after it has matched a route, because metrics and logs need the route.
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
            // First, so that no layer below can print a key.
            .layer(SetSensitiveRequestHeadersLayer::new(SENSITIVE))
            // Before the ID is set, because an existing ID is kept.
            .map_request(remove_unusable)
            // Above everything that logs or answers, because those need the ID.
            .layer(SetRequestIdLayer::new(X_REQUEST_ID, NewRequestId))
            // Above everything that answers, so that each response is counted and logged.
            .layer(ObserveLayer::new(state))
            // Below `ObserveLayer`, which reads the ID from the response.
            .layer(PropagateRequestIdLayer::new(X_REQUEST_ID))
            // Below `ObserveLayer`, which counts the arrival of each request.
            .layer(OnEarlyDropLayer::builder().on_future_drop(OnClientDisconnect::new(state)))
            // Below everything that observes requests, so that a panic becomes an ordinary response.
            .layer(CatchPanicLayer::custom(panicked))
            // Above decompression, so that clients without a key cannot make the server decompress.
            .option_layer(keys)
            // Last, so that only handlers see the decompressed body.
            .layer(DecompressLayer),
    )
}

/// Removes trailing slashes from paths, before the router matches them.
pub(crate) fn normalized(router: Router) -> HttpService {
    NormalizePathLayer::trim_trailing_slash().layer(router)
}

/// Compresses responses of the routes with large texts, for clients that accept it. A prediction is too small
/// to gain from compression.
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
    use crate::{metrics::exposition::exposition, server::router::tests::settings};

    /// Test routes behind the real layers.
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
    async fn panic_becomes_a_counted_json_error_with_request_id() {
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
        let metrics = exposition(&state).unwrap();
        for line in [
            r#"model_server_requests_total{route="/predict",method="POST",code="500"} 1"#,
            r#"model_server_errors_total{kind="internal"} 1"#,
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
    }

    #[tokio::test]
    async fn key_headers_are_marked_sensitive() {
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
    async fn unusable_request_id_is_replaced_for_handlers() {
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
