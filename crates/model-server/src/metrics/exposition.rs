//! Writes all metrics for a scrape.

use std::{
    fmt,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use procfs::process::Process;
use prometheus_client::{
    encoding::prometheus_text::encode,
    metrics::{counter::ConstCounter, gauge::ConstGauge, info::Info},
    registry::Registry,
};

use crate::{logging, metrics::counters::Metrics, state::ServerState};

/// Returns all metrics in Prometheus' text format, version 0.0.4, which every scraper reads.
pub(crate) fn exposition(state: &ServerState) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode(&mut text, &registry(state))?;
    Ok(text)
}

/// Returns the counters, and gauges with their values at this moment.
///
/// Each scrape has its own registry, because the library's gauges do not change by themselves, and the release is not
/// known at the start.
fn registry(state: &ServerState) -> Registry {
    let mut registry = Registry::default();
    register_requests(&mut registry, &state.metrics);
    register_forward_passes(&mut registry, &state.metrics);
    register_capture(&mut registry, &state.metrics);
    register_state(&mut registry, state);
    register_process(&mut registry, &state.metrics);
    registry
}

fn register_requests(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "model_server_requests",
        "Requests by route, method, and status; 499 if the client disconnected before the response",
        metrics.responses.clone(),
    );
    registry.register(
        "model_server_request_duration_seconds",
        "Time from the head of a request to the head of its response, by route",
        metrics.latency.clone(),
    );
    registry.register(
        "model_server_errors",
        "Requests that were refused or failed, by kind of error",
        metrics.error_kinds.clone(),
    );
    registry.register(
        "model_server_queue_time_seconds",
        "Time that requests waited in the queue",
        metrics.queue.clone(),
    );
    registry.register(
        "model_server_tokenize_time_seconds",
        "Time to tokenize the texts of a request",
        metrics.tokenize.clone(),
    );
}

fn register_forward_passes(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "model_server_inference_time_seconds",
        "Duration of each forward pass",
        metrics.inference.clone(),
    );
    registry.register(
        "model_server_batch_texts",
        "Texts in each forward pass",
        metrics.batch_texts.clone(),
    );
    registry.register(
        "model_server_batch_tokens",
        "Tokens in each forward pass, padding included",
        metrics.batch_tokens.clone(),
    );
    registry.register(
        "model_server_padding_tokens",
        "Padding tokens",
        metrics.padding.clone(),
    );
    registry.register(
        "model_server_engine_panics",
        "Batches whose first failure was a panic of the engine",
        metrics.engine_panics.clone(),
    );
}

fn register_capture(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "model_server_captured_texts_dropped",
        "Texts that were lost for the sample of inputs",
        metrics.captures_dropped.clone(),
    );
    registry.register(
        "model_server_capture_write_errors",
        "Failed writes of the sample of inputs",
        metrics.capture_write_errors.clone(),
    );
}

/// Registers the queue, readiness, the log, and the served release.
fn register_state(registry: &mut Registry, state: &ServerState) {
    registry.register(
        "model_server_queue_depth",
        "Texts that wait in the queue",
        ConstGauge::new(state.serving.get().map_or(0, |it| it.pool.queue.depth())),
    );
    registry.register(
        "model_server_in_flight_requests",
        "Prediction requests in flight",
        ConstGauge::new(state.metrics.counts().in_flight),
    );
    registry.register(
        "model_server_ready",
        "1 if /health returns 200, otherwise 0",
        ConstGauge::new(u64::from(state.unhealthy_reason(Instant::now()).is_none())),
    );
    registry.register(
        "model_server_log_lines_dropped",
        "Log lines that were dropped because standard error was not read",
        ConstCounter::new(logging::dropped_lines()),
    );
    if let Some(serving) = state.serving.get() {
        let release = [
            ("model_name", state.model_name.clone()),
            ("model_version", state.model_version.clone()),
            ("model_digest", serving.digest.clone()),
            ("engine", state.engine.name().to_owned()),
        ];
        registry.register("model", "The served release", Info::new(release));
    }
}

fn register_process(registry: &mut Registry, metrics: &Metrics) {
    registry.register(
        "process_start_time_seconds",
        "Start time of the server since the Unix epoch",
        ConstGauge::new(since_1970(metrics.started_at)),
    );
    registry.register(
        "process_uptime_seconds",
        "Time since the server started",
        ConstGauge::new(metrics.uptime(Instant::now()).as_secs_f64()),
    );
    if let Some(bytes) = resident_bytes() {
        registry.register(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            ConstGauge::new(bytes),
        );
    }
}

fn since_1970(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

/// Resident memory of the process; `None` if `/proc` does not tell.
fn resident_bytes() -> Option<u64> {
    let status = Process::myself().ok()?.status().ok()?;
    Some(status.vmrss? * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::server::router::tests::settings;

    #[test]
    fn histogram_buckets_are_cumulative_and_include_their_upper_bound() {
        let state = ServerState::new(&settings(), Instant::now());
        for (texts, took) in [(1, 50), (128, 100_000), (129, 200_000_000)] {
            let took = Duration::from_micros(took);
            state.metrics.forward_pass(texts, 3, 4, took);
        }
        let text = exposition(&state).unwrap();
        let expected = [
            "\
# HELP model_server_batch_texts Texts in each forward pass.
# TYPE model_server_batch_texts histogram
model_server_batch_texts_bucket{le=\"1\"} 1
model_server_batch_texts_bucket{le=\"2\"} 1
model_server_batch_texts_bucket{le=\"4\"} 1
model_server_batch_texts_bucket{le=\"8\"} 1
model_server_batch_texts_bucket{le=\"16\"} 1
model_server_batch_texts_bucket{le=\"32\"} 1
model_server_batch_texts_bucket{le=\"64\"} 1
model_server_batch_texts_bucket{le=\"128\"} 2
model_server_batch_texts_bucket{le=\"+Inf\"} 3
model_server_batch_texts_sum 258.0
model_server_batch_texts_count 3
",
            "\
# HELP model_server_padding_tokens_total Padding tokens.
# TYPE model_server_padding_tokens_total counter
model_server_padding_tokens_total 3
",
            "model_server_inference_time_seconds_bucket{le=\"5e-05\"} 1\n",
            "model_server_inference_time_seconds_bucket{le=\"0.1\"} 2\n",
            "model_server_inference_time_seconds_bucket{le=\"100\"} 2\n",
        ];
        for lines in expected {
            assert!(text.contains(lines), "{lines}{text}");
        }
    }
}
