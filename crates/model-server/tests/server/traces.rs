//! Spans that the server exports to an OpenTelemetry collector.

use std::time::{Duration, Instant};

use axum::{Router, body::Bytes, extract::State, routing::post};
use model_server::Settings;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as AnyValue},
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use serde_json::json;
use tokio::{net::TcpListener, sync::mpsc};

use crate::support::{
    CALLER_SPAN_ID, Server, ServerProcess, TRACE_ID, run_to_exit, server_command, settings,
    traceparent,
};

/// An OTLP collector that stores every export request.
struct Collector {
    url: String,
    exports: mpsc::UnboundedReceiver<Bytes>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, exports) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let store = async |State(sender): State<mpsc::UnboundedSender<Bytes>>, body: Bytes| {
            sender.send(body).unwrap();
        };
        let router = Router::new()
            .route("/v1/traces", post(store))
            .with_state(sender);
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, exports }
    }

    fn settings(&self) -> Settings {
        Settings {
            otlp_endpoint: Some(self.url.clone()),
            ..settings("v1")
        }
    }

    /// Returns the resource attributes and the spans of all exports so far.
    fn into_received(mut self) -> (Vec<KeyValue>, Vec<Span>) {
        let (mut resource, mut spans) = (Vec::new(), Vec::new());
        while let Ok(body) = self.exports.try_recv() {
            for group in ExportTraceServiceRequest::decode(body)
                .unwrap()
                .resource_spans
            {
                resource = group.resource.unwrap().attributes;
                spans.extend(group.scope_spans.into_iter().flat_map(|it| it.spans));
            }
        }
        (resource, spans)
    }
}

fn attribute<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyValue> {
    let found = attributes.iter().find(|it| it.key == key)?;
    found.value.as_ref()?.value.as_ref()
}

fn string(value: &str) -> AnyValue {
    AnyValue::StringValue(value.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[tokio::test]
async fn request_span_continues_caller_trace_with_stage_spans() {
    let collector = Collector::start().await;
    let server = Server::start(collector.settings()).await;
    let request = server
        .client
        .predict_request(&json!({"text": "fine"}))
        .header("traceparent", traceparent())
        .header("tracestate", "vendor=value");
    assert_eq!(request.send().await.unwrap().status(), 200);
    server.stop().await.unwrap();

    let (resource, spans) = collector.into_received();
    assert_eq!(
        attribute(&resource, "service.name"),
        Some(&string("model-server"))
    );
    assert!(attribute(&resource, "service.version").is_some());
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let request = named("POST /predict");
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(hex(&request.parent_span_id), CALLER_SPAN_ID);
    assert_eq!(request.trace_state, "vendor=value");
    for (key, value) in [
        ("http.request.method", string("POST")),
        ("http.route", string("/predict")),
        ("url.path", string("/predict")),
        ("http.response.status_code", AnyValue::IntValue(200)),
        ("model.name", string("sentiment")),
        ("model.version", string("v1")),
    ] {
        assert_eq!(attribute(&request.attributes, key), Some(&value), "{key}");
    }
    let mut before = request.start_time_unix_nano;
    for name in ["queue", "tokenize", "inference"] {
        let stage = named(name);
        assert_eq!(stage.parent_span_id, request.span_id, "{name}");
        assert!(stage.start_time_unix_nano >= before, "{name}");
        assert!(
            stage.end_time_unix_nano >= stage.start_time_unix_nano,
            "{name}"
        );
        before = stage.end_time_unix_nano;
    }
    assert!(before <= request.end_time_unix_nano);
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE_ID, "{}", span.name);
    }
}

#[tokio::test]
async fn traces_start_without_caller_and_skip_unsampled_requests() {
    let collector = Collector::start().await;
    let server = Server::start(collector.settings()).await;
    let not_sampled = server
        .client
        .predict_request(&json!({"text": "fine"}))
        .header("traceparent", format!("00-{TRACE_ID}-{CALLER_SPAN_ID}-00"));
    assert_eq!(not_sampled.send().await.unwrap().status(), 200);
    server.client.get("/metrics").send().await.unwrap();
    server.client.get("/nothing").send().await.unwrap();
    // An invalid `traceparent` counts as none.
    let invalid = server
        .client
        .predict_request(&json!({}))
        .header("traceparent", format!("ff-{TRACE_ID}-{CALLER_SPAN_ID}-01"));
    assert_eq!(invalid.send().await.unwrap().status(), 400);
    server.stop().await.unwrap();

    let (_, spans) = collector.into_received();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["GET", "POST /predict"]);
    assert_ne!(spans[0].trace_id, spans[1].trace_id);
    for span in &spans {
        assert_ne!(hex(&span.trace_id), TRACE_ID);
        assert!(span.parent_span_id.is_empty());
        // A client error does not mark the span as failed.
        let failed = |status: &Status| status.code() != StatusCode::Unset;
        assert!(!span.status.as_ref().is_some_and(failed), "{span:#?}");
    }
}

#[tokio::test]
async fn unresponsive_collector_delays_neither_requests_nor_exit() {
    // The operating system accepts connections to this port, and nothing reads from them.
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let mut server = ServerProcess::start(&[
        ("GRACE_SECONDS", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
    ])
    .await;
    for _ in 0..50 {
        assert_eq!(server.client.predict("fine").await.status(), 200);
    }
    let signaled = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.wait_for_exit().await.code(), Some(0));
    let elapsed = signaled.elapsed();
    assert!(
        elapsed < Duration::from_secs(5),
        "the exit took {elapsed:?}"
    );
}

#[tokio::test]
async fn otlp_endpoint_without_scheme_is_usage_error() {
    let mut command = server_command();
    command.envs([
        ("MODEL_VERSION", "v1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
    ]);
    let (code, _, message) = run_to_exit(&mut command).await;
    assert_eq!(code, Some(2), "{message}");
    assert!(
        message.contains("expected a URL such as http://localhost:4318"),
        "{message}"
    );
}
