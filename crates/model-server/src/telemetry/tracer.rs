//! Creates spans and exports them by OTLP.
//!
//! A span is created after its request, from times that were measured anyway, and a thread exports it. Spans
//! that cannot be exported in time are dropped: a slow or dead collector does not delay requests.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use axum::http::{StatusCode, Uri};
use opentelemetry::{
    Context, KeyValue,
    trace::{
        Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::task;
use tracing::{info, warn};

use crate::{config::ModelSettings, scheduler::stage_times::StageTimes};

/// How long the shutdown waits for the last export.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Creates and exports spans.
#[derive(Debug)]
pub(crate) struct Telemetry {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    model: [KeyValue; 2],
}

/// A request that has been answered.
#[derive(Debug)]
pub(crate) struct FinishedRequest<'a> {
    /// The caller's span.
    pub(crate) parent: Option<&'a SpanContext>,
    /// GET, POST, and so on.
    pub(crate) method: &'static str,
    /// The route, if the request matches one.
    pub(crate) route: Option<&'a str>,
    /// The URI.
    pub(crate) uri: &'a Uri,
    /// The status of the response.
    pub(crate) status: StatusCode,
    /// The kind of error.
    pub(crate) error: Option<&'static str>,
    /// When the head of the request arrived.
    pub(crate) began: SystemTime,
    /// How long the request took.
    pub(crate) took: Duration,
    /// How long its stages took.
    pub(crate) times: Option<StageTimes>,
}

impl Telemetry {
    /// Starts the exporter to `endpoint`. Each span names the release.
    pub(crate) fn start(endpoint: &str, model: &ModelSettings) -> Result<Self, String> {
        let (exporter, url) = otlp::span_exporter(endpoint)?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(LoggingExporter::new(exporter))
            .with_resource(otlp::resource("model-server", env!("CARGO_PKG_VERSION")))
            .build();
        info!(url, "traces are sent");
        Ok(Self {
            tracer: provider.tracer(env!("CARGO_PKG_NAME")),
            provider,
            model: [
                KeyValue::new("model.name", model.name.clone()),
                KeyValue::new("model.version", model.version.clone()),
            ],
        })
    }

    /// Records the span of a request and of its stages, if it is sampled. Returns its trace ID.
    pub(crate) fn record(&self, request: &FinishedRequest) -> TraceId {
        let caller = match request.parent {
            None => Context::new(),
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
        };
        let ended = request.began + request.took;
        let name = match request.route {
            Some(route) => format!("{} {route}", request.method),
            None => request.method.to_owned(),
        };
        let builder = self.tracer.span_builder(name);
        let mut span = builder
            .with_kind(SpanKind::Server)
            .with_start_time(request.began)
            .start_with_context(&self.tracer, &caller);
        let trace = span.span_context().trace_id();
        if !span.is_recording() {
            return trace;
        }
        span.set_attributes(attributes(request));
        span.set_attributes(self.model.iter().cloned());
        if request.status.is_server_error() {
            span.set_status(Status::error(request.error.unwrap_or_default()));
        }
        let own = Context::new().with_remote_span_context(span.span_context().clone());
        if let Some(times) = request.times {
            self.record_stages(times, &own, request.began, ended);
        }
        span.end_with_timestamp(ended);
        trace
    }

    /// Records the stages one after the other, so that the last one ends with the request. For several texts,
    /// each stage is the longest of its kind; in fact they may overlap.
    fn record_stages(
        &self,
        times: StageTimes,
        parent: &Context,
        began: SystemTime,
        ended: SystemTime,
    ) {
        let all = times.queue + times.tokenize + times.inference;
        let mut start = (ended - all).max(began);
        for (name, took) in [
            ("queue", times.queue),
            ("tokenize", times.tokenize),
            ("inference", times.inference),
        ] {
            let end = (start + took).min(ended);
            let builder = self.tracer.span_builder(name).with_start_time(start);
            let mut span = builder.start_with_context(&self.tracer, parent);
            span.end_with_timestamp(end);
            start = end;
        }
    }

    /// Exports the remaining spans, for [`LAST_WAIT`] at most.
    pub(crate) async fn stop(&self) {
        let provider = self.provider.clone();
        let flush = move || provider.shutdown_with_timeout(LAST_WAIT);
        if !matches!(task::spawn_blocking(flush).await, Ok(Ok(()))) {
            warn!("the last traces could not be sent");
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        // Otherwise the provider would block until its thread ends.
        let _ = self.provider.shutdown_with_timeout(Duration::ZERO);
    }
}

fn attributes(request: &FinishedRequest) -> Vec<KeyValue> {
    let mut attributes = vec![
        KeyValue::new("http.request.method", request.method),
        KeyValue::new(
            "http.response.status_code",
            i64::from(request.status.as_u16()),
        ),
        KeyValue::new("url.path", request.uri.path().to_owned()),
        KeyValue::new("url.scheme", "http"),
    ];
    if let Some(route) = request.route {
        attributes.push(KeyValue::new("http.route", route.to_owned()));
    }
    if let Some(error) = request.error.filter(|_| request.status.is_server_error()) {
        attributes.push(KeyValue::new("error.type", error));
    }
    attributes
}

/// Logs when exports begin to fail, and when they succeed again.
#[derive(Debug)]
struct LoggingExporter<E> {
    exporter: E,
    failing: AtomicBool,
}

impl<E> LoggingExporter<E> {
    fn new(exporter: E) -> Self {
        Self {
            exporter,
            failing: AtomicBool::new(false),
        }
    }
}

impl<E: SpanExporter> SpanExporter for LoggingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(sent.is_err(), Ordering::Relaxed);
        match &sent {
            Err(error) if !failed_before => warn!(%error, "traces cannot be sent"),
            Ok(()) if failed_before => info!("traces are sent again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &opentelemetry_sdk::Resource) {
        self.exporter.set_resource(resource);
    }
}
