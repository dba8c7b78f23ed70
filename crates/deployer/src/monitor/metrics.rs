//! The metrics of `deployer monitor`.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Router, ServiceExt, http::header, routing::get};
use jiff::Timestamp;
use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        prometheus_text::{CONTENT_TYPE, encode},
    },
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::net::TcpListener;
use tower::{Layer as _, ServiceBuilder};
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::CompressionLayer,
    normalize_path::{NormalizePath, NormalizePathLayer},
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    sensitive_headers::SetSensitiveRequestHeadersLayer,
};

use crate::{
    color::Color,
    evidence::request::Request as LoggedRequest,
    monitor::color::{MonitoredColor, index},
    state::history::HistoryEntry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ColorLabel {
    color: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReleaseLabels {
    color: &'static str,
    version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SenderLabels {
    color: &'static str,
    version: String,
    /// `clients` or `deployer`.
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndingLabels {
    color: &'static str,
    version: String,
    /// `clients` or `deployer`.
    by: &'static str,
    /// The kind of the ending.
    ending: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// All metrics.
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    router_up: Gauge,
    active: Family<ColorLabel, Gauge>,
    up: Family<ColorLabel, Gauge>,
    fit: Family<ColorLabel, Gauge>,
    requests: Family<EndingLabels, Counter>,
    failures: Family<SenderLabels, Counter>,
    latency: Family<ReleaseLabels, Histogram, fn() -> Histogram>,
    deployments: Family<OutcomeLabel, Counter>,
    since_last: Gauge,
    /// How many deployments of the history were counted.
    counted_deployments: Mutex<usize>,
}

/// From 1 ms to 30 s.
fn latency_buckets() -> Histogram {
    Histogram::new([
        0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("deployer");
        let (active, up, fit) = (Family::default(), Family::default(), Family::default());
        let (requests, failures) = (Family::default(), Family::default());
        let latency = Family::<ReleaseLabels, Histogram, fn() -> Histogram>::new_with_constructor(
            latency_buckets,
        );
        let (deployments, since_last) = (Family::default(), Gauge::default());
        let router_up = Gauge::default();
        registry.register(
            "router_up",
            "1 while the router answers; otherwise no color receives traffic",
            router_up.clone(),
        );
        registry.register(
            "active",
            "1 for the color that has the traffic by the flags",
            active.clone(),
        );
        registry.register("up", "1 for a color that passes its checks", up.clone());
        registry.register("fit", "1 for a color that may stand in", fit.clone());
        registry.register(
            "requests",
            "Requests for a color by the way in which they ended, by the router's log",
            requests.clone(),
        );
        registry.register(
            "failures",
            "Those that the color failed, also when the other one answered in its place",
            failures.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "How long clients waited for good answers of a color",
            latency.clone(),
        );
        registry.register(
            "deployments",
            "Deployments in the history, by outcome",
            deployments.clone(),
        );
        registry.register(
            "seconds_since_last_deployment",
            "Since the last deployment in the history ended; 0 without one",
            since_last.clone(),
        );
        Self {
            registry: Arc::new(registry),
            router_up,
            active,
            up,
            fit,
            requests,
            failures,
            latency,
            deployments,
            since_last,
            counted_deployments: Mutex::new(0),
        }
    }
}

impl Metrics {
    /// Updates what is known of the colors. `fit` says which of them may stand in, `active` is `None` if it is unknown.
    pub(crate) fn update_colors(
        &self,
        active: Option<Color>,
        colors: &[MonitoredColor; 2],
        fit: [bool; 2],
    ) {
        for color in Color::BOTH {
            let monitored = &colors[index(color)];
            let of = ColorLabel {
                color: color.name(),
            };
            let set = |family: &Family<ColorLabel, Gauge>, holds: bool| {
                family.get_or_create(&of).set(i64::from(holds));
            };
            set(&self.active, active == Some(color));
            set(&self.up, monitored.is_well());
            set(&self.fit, fit[index(color)]);
        }
    }

    /// Counts requests that were not counted yet. `versions` are those of blue and green.
    pub(crate) fn count_requests(&self, requests: &[LoggedRequest], versions: [&str; 2]) {
        for request in requests {
            let Some((wanted, ending)) = request.ending() else {
                continue;
            };
            let color = wanted.name();
            let version = versions[index(wanted)].to_owned();
            let by = if request.by_deployer {
                "deployer"
            } else {
                "clients"
            };
            let of_ending = EndingLabels {
                color,
                version: version.clone(),
                by,
                ending: ending.kind(),
            };
            self.requests.get_or_create(&of_ending).inc();
            match ending.is_good(request.by_deployer) {
                Some(true) if !request.by_deployer => {
                    let seconds = request.waited.as_secs_f64();
                    let of_release = ReleaseLabels { color, version };
                    self.latency.get_or_create(&of_release).observe(seconds);
                }
                Some(false) => {
                    let of_sender = SenderLabels { color, version, by };
                    self.failures.get_or_create(&of_sender).inc();
                }
                Some(true) | None => {}
            }
        }
    }

    /// Updates whether the router answers.
    pub(crate) fn update_router(&self, answers: bool) {
        self.router_up.set(i64::from(answers));
    }

    /// Counts the deployments that are new since the last call, and the seconds from the last one to `now`.
    pub(crate) fn count_history(&self, entries: &[HistoryEntry], now: Timestamp) {
        let mut counted_deployments = self
            .counted_deployments
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Traffic that a person or the monitor moved is no deployment.
        let mut deployments = entries.iter().filter(|entry| entry.id.is_some());
        for entry in deployments.clone().skip(*counted_deployments) {
            let outcome = entry.action.as_str();
            self.deployments
                .get_or_create(&OutcomeLabel { outcome })
                .inc();
        }
        *counted_deployments = deployments.clone().count();
        let since = deployments
            .next_back()
            .map_or(0, |last| now.as_second() - last.at.as_second());
        self.since_last.set(since);
    }
}

/// Serves the metrics. Never resolves without a listener.
pub(crate) async fn serve(listener: Option<TcpListener>, metrics: &Metrics) -> anyhow::Error {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let service = service(&metrics.registry);
    let service = ServiceExt::<axum::extract::Request>::into_make_service(service);
    match axum::serve(listener, service).await {
        Ok(()) => anyhow::anyhow!("metrics are not served any more"),
        Err(error) => anyhow::anyhow!("metrics cannot be served: {error}"),
    }
}

/// `GET /metrics` with its layers, in the order in which a request passes them.
fn service(registry: &Arc<Registry>) -> NormalizePath<Router> {
    let registry = Arc::clone(registry);
    let handler = move || async move {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &registry);
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], text)
    };
    let layers = ServiceBuilder::new()
        // First, so that no layer below can print a scraper's credentials.
        .layer(SetSensitiveRequestHeadersLayer::new([
            header::AUTHORIZATION,
        ]))
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(CompressionLayer::new())
        // Last: to the layers above, a panic is one more response.
        .layer(CatchPanicLayer::new());
    let routes = Router::new().route("/metrics", get(handler)).layer(layers);
    // Outside the router, which would not find the route otherwise.
    NormalizePathLayer::trim_trailing_slash().layer(routes)
}

#[cfg(test)]
mod tests {
    use axum::{
        body::{Body, to_bytes},
        http::{Request, Response, StatusCode},
    };
    use tower::ServiceExt as _;
    use tower_http::decompression::DecompressionLayer;

    use super::*;
    use crate::{
        evidence::request::answered_by,
        state::{action::Action, traffic_move::TrafficMove},
    };

    async fn text(response: Response<Body>) -> String {
        let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        String::from_utf8(bytes.into()).unwrap()
    }

    fn scrape(path: &str) -> axum::http::request::Builder {
        Request::get(path).header("x-request-id", "as-given")
    }

    #[tokio::test]
    async fn metrics_are_compressed_when_accepted() {
        let metrics = Metrics::default();
        let service = service(&metrics.registry);
        let request = scrape("/metrics").body(Body::empty()).unwrap();
        let plain = service.clone().oneshot(request).await.unwrap();
        assert_eq!(plain.status(), StatusCode::OK);
        assert!(plain.headers().get(header::CONTENT_ENCODING).is_none());
        assert_eq!(plain.headers()["x-request-id"], "as-given");
        let plain = text(plain).await;
        assert!(plain.contains("deployer_router_up 0"), "{plain}");

        let request = scrape("/metrics").header(header::ACCEPT_ENCODING, "gzip");
        let request = request.body(Body::empty()).unwrap();
        let compressed = service.clone().oneshot(request).await.unwrap();
        assert_eq!(compressed.headers()[header::CONTENT_ENCODING], "gzip");
        let decompressing = DecompressionLayer::new().layer(service);
        let request = scrape("/metrics").body(Body::empty()).unwrap();
        let decompressed = decompressing.oneshot(request).await.unwrap();
        assert_eq!(text(decompressed.map(Body::new)).await, plain);
    }

    #[test]
    fn request_metrics_tell_endings_and_senders_apart() {
        let metrics = Metrics::default();
        let refused = answered_by(Color::Green, 422);
        let own = LoggedRequest {
            by_deployer: true,
            ..refused.clone()
        };
        let failed = answered_by(Color::Green, 500);
        metrics.count_requests(&[refused.clone(), refused, own, failed], ["v1", "v2"]);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        let green = "color=\"green\",version=\"v2\"";
        for line in [
            format!("requests_total{{{green},by=\"clients\",ending=\"refused\"}} 2"),
            format!("requests_total{{{green},by=\"deployer\",ending=\"refused\"}} 1"),
            format!("requests_total{{{green},by=\"clients\",ending=\"failed\"}} 1"),
            format!("failures_total{{{green},by=\"clients\"}} 1"),
            // The deployer sends nothing that a release may refuse.
            format!("failures_total{{{green},by=\"deployer\"}} 1"),
            format!("request_duration_seconds_count{{{green}}} 2"),
        ] {
            assert!(
                text.contains(&format!("deployer_{line}\n")),
                "{line} in {text}"
            );
        }
    }

    #[test]
    fn history_metrics_count_deployments_once_and_ignore_moves() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let by_hand = TrafficMove::switch_to(Color::Blue);
        let switched = HistoryEntry::of_move(&by_hand, at(150), None);
        let promoted = HistoryEntry {
            at: at(100),
            action: Action::Promoted,
            id: Some("19700101T000000.000Z-v2".to_owned()),
            ..switched.clone()
        };
        let metrics = Metrics::default();
        metrics.count_history(std::slice::from_ref(&switched), at(160));
        assert_eq!(metrics.since_last.get(), 0);
        for now in [160, 170] {
            metrics.count_history(&[promoted.clone(), switched.clone()], at(now));
            assert_eq!(metrics.since_last.get(), now - 100);
        }
        let outcome = Action::Promoted.as_str();
        let label = OutcomeLabel { outcome };
        assert_eq!(metrics.deployments.get_or_create(&label).get(), 1);
    }

    #[tokio::test]
    async fn metrics_path_ignores_trailing_slash() {
        let metrics = Metrics::default();
        for (path, status) in [
            ("/metrics/", StatusCode::OK),
            ("/other", StatusCode::NOT_FOUND),
        ] {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let response = service(&metrics.registry).oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{path}");
            assert_eq!(response.headers()["x-request-id"].len(), 36, "{path}");
        }
    }
}
