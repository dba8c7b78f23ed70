//! Sends the traces of deployments by OTLP.
//!
//! A thread exports the spans. A collector that is slow or down delays no deployment, and the exit by at most [`LAST_WAIT`].

use std::{
    env,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use opentelemetry::trace::{SpanContext, TracerProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{IdGenerator, RandomIdGenerator, SdkTracerProvider, SpanData, SpanExporter},
};
use tokio::task;

use crate::{
    config::Settings,
    deployment::trace::DeploymentTrace,
    report::{RootIds, TraceReporter},
};

/// How long the exit waits for the last export.
const LAST_WAIT: Duration = Duration::from_secs(3);

/// Begins the trace of a deployment, or continues the trace of the caller, which `TRACEPARENT` names. Returns `None` if the
/// settings name no collector.
#[must_use]
pub(crate) fn begin(settings: &Settings) -> Option<DeploymentTrace> {
    (!settings.traces.endpoint.is_empty())
        .then(|| begin_below(env::var("TRACEPARENT").ok().as_deref()))
}

fn begin_below(traceparent: Option<&str>) -> DeploymentTrace {
    let caller = traceparent.and_then(|text| otlp::parent_span(text, None));
    let ids = RandomIdGenerator::default();
    let id = caller
        .as_ref()
        .map_or_else(|| ids.new_trace_id(), SpanContext::trace_id);
    DeploymentTrace {
        id: id.to_string(),
        span: ids.new_span_id().to_string(),
        parent: caller.as_ref().map(|caller| caller.span_id().to_string()),
        sampled: caller.is_none_or(|caller| caller.is_sampled()),
    }
}

/// The connection to the collector.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
    reporter: TraceReporter,
    url: String,
    problem: Problem,
}

impl Traces {
    /// Starts the exporter; `None` if the settings name no collector.
    pub(crate) fn connect(settings: &Settings) -> Result<Option<Self>, String> {
        if settings.traces.endpoint.is_empty() {
            return Ok(None);
        }
        let (exporter, url) = otlp::span_exporter(&settings.traces.endpoint)?;
        let problem = Problem::default();
        let ids = RootIds::default();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(ObservedExporter {
                exporter,
                problem: problem.clone(),
            })
            .with_id_generator(ids.clone())
            .with_resource(otlp::resource("deployer", env!("CARGO_PKG_VERSION")))
            .build();
        let reporter = TraceReporter::new(provider.tracer("deployer"), ids);
        Ok(Some(Self {
            provider,
            reporter,
            url,
            problem,
        }))
    }

    /// Turns events into spans.
    #[must_use]
    pub(crate) fn reporter(&self) -> &TraceReporter {
        &self.reporter
    }

    /// Sends the remaining spans, for [`LAST_WAIT`] at most. Returns why spans are missing at the collector, if some are.
    pub(crate) async fn stop(&self) -> Option<String> {
        if !self.reporter.has_spans() {
            return None;
        }
        let provider = self.provider.clone();
        let flush = move || provider.shutdown_with_timeout(LAST_WAIT);
        let flushed = task::spawn_blocking(flush).await;
        let reason = match (self.problem.get().take(), flushed) {
            (Some(problem), _) => problem,
            (None, Ok(Ok(()))) => return None,
            (None, _) => format!("it did not answer within {} s", LAST_WAIT.as_secs()),
        };
        let url = &self.url;
        Some(format!(
            "the collector {url} did not receive the whole trace of this deployment: {reason}"
        ))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // Otherwise the provider would block until its thread ends.
        let _ = self.provider.shutdown_with_timeout(Duration::ZERO);
    }
}

/// Why the first export failed that did.
#[derive(Debug, Clone, Default)]
struct Problem(Arc<Mutex<Option<String>>>);

impl Problem {
    fn get(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers why an export failed.
#[derive(Debug)]
struct ObservedExporter<E> {
    exporter: E,
    problem: Problem,
}

impl<E: SpanExporter> SpanExporter for ObservedExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        if let Err(error) = &sent {
            self.problem.get().get_or_insert_with(|| error.to_string());
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

#[cfg(test)]
mod tests;
