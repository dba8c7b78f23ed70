//! Writes all metrics for a scrape. Gauges are read at that moment.

use std::{
    fmt::{self, Error},
    fs,
    sync::{Arc, atomic::Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeGaugeValue, EncodeMetric as _, MetricEncoder, NoLabelSet, text,
    },
    metrics::{MetricType, counter::ConstCounter},
    registry::{Registry, Unit},
};

use crate::{
    logging,
    metrics::{counters::Route, histogram::Histogram, prometheus_text::to_prometheus_text},
    state::ServerState,
};

/// The text format of a scrape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// The `OpenMetrics` text format, version 1.0.0.
    OpenMetrics,
}

/// Returns all metrics as text.
pub(crate) fn exposition(state: Arc<ServerState>, format: Format) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(state)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match format {
        Format::Prometheus => to_prometheus_text(&text),
        Format::OpenMetrics => text,
    })
}

#[derive(Debug)]
struct Exposition(Arc<ServerState>);

impl Collector for Exposition {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut families = FamilyEncoder(encoder);
        self.requests(&mut families)?;
        self.inference(&mut families)?;
        self.server(&mut families)?;
        self.process(&mut families)
    }
}

impl Exposition {
    fn routes(&self) -> impl Iterator<Item = &Route> {
        let metrics = &self.0.metrics;
        metrics.routes.iter().chain([&metrics.unmatched])
    }

    fn requests(&self, families: &mut FamilyEncoder) -> fmt::Result {
        let mut answers = families.family(
            "model_server_requests",
            "Requests by route, method, and status; 499 if the client disconnected before the response.",
            None,
            MetricType::Counter,
        )?;
        for route in self.routes() {
            for it in route.answers.iter() {
                let labels = [("route", route.path.as_str()), ("method", it.method)];
                let labels = (labels, [("code", it.code)]);
                let count = ConstCounter::new(it.count.load(Ordering::Relaxed));
                count.encode(answers.encode_family(&labels)?)?;
            }
        }

        let mut latency = families.family(
            "model_server_request_duration",
            "Time from the head of a request to the head of its response, by route.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        // Routes without requests have no histogram.
        for route in self
            .routes()
            .filter(|it| it.answers.iter().next().is_some())
        {
            let labels = [("route", route.path.as_str())];
            route.latency.encode(latency.encode_family(&labels)?)?;
        }

        let mut errors = families.family(
            "model_server_errors",
            "Requests that were refused or failed, by kind of error.",
            None,
            MetricType::Counter,
        )?;
        for kind in self.0.metrics.error_kinds.iter() {
            let count = ConstCounter::new(kind.count.load(Ordering::Relaxed));
            count.encode(errors.encode_family(&[("kind", kind.name)])?)?;
        }
        Ok(())
    }

    fn inference(&self, families: &mut FamilyEncoder) -> fmt::Result {
        let metrics = &self.0.metrics;
        families.histogram(
            "model_server_queue_time",
            "Time that requests waited in the queue.",
            Some(&Unit::Seconds),
            &metrics.queue,
        )?;
        families.histogram(
            "model_server_tokenize_time",
            "Time to tokenize the texts of a request.",
            Some(&Unit::Seconds),
            &metrics.tokenize,
        )?;
        families.histogram(
            "model_server_inference_time",
            "Duration of each forward pass.",
            Some(&Unit::Seconds),
            &metrics.inference,
        )?;
        families.histogram(
            "model_server_batch",
            "Texts in each forward pass.",
            Some(&Unit::Other("texts".to_owned())),
            &metrics.batch_texts,
        )?;
        let tokens = Unit::Other("tokens".to_owned());
        families.histogram(
            "model_server_batch",
            "Tokens in each forward pass, padding included.",
            Some(&tokens),
            &metrics.batch_tokens,
        )?;
        families.counter(
            "model_server_padding",
            "Padding tokens.",
            Some(&tokens),
            metrics.padding.load(Ordering::Relaxed),
        )?;
        families.counter(
            "model_server_engine_panics",
            "Batches whose first failure was a panic of the engine.",
            None,
            metrics.engine_panics.load(Ordering::Relaxed),
        )
    }

    fn server(&self, families: &mut FamilyEncoder) -> fmt::Result {
        let Self(state) = self;
        let now = Instant::now();
        let depth = state.serving.get().map_or(0, |it| it.pool.queue.depth());
        families.gauge(
            "model_server_queue_depth",
            "Texts that wait in the queue.",
            None,
            &depth,
        )?;
        families.gauge(
            "model_server_in_flight_requests",
            "Prediction requests in flight.",
            None,
            &state.metrics.counts().in_flight,
        )?;
        families.gauge(
            "model_server_ready",
            "1 if /health returns 200, otherwise 0.",
            None,
            &u64::from(state.unhealthy_reason(now).is_none()),
        )?;
        families.counter(
            "model_server_log_lines_dropped",
            "Log lines that were dropped because standard error was not read.",
            None,
            logging::dropped_lines(),
        )?;
        let mut model = families.family("model", "The served release.", None, MetricType::Info)?;
        if let Some(serving) = state.serving.get() {
            model.encode_info(&[
                ("model_name", state.model_name.as_str()),
                ("model_version", state.model_version.as_str()),
                ("model_digest", serving.digest.as_str()),
                ("engine", state.engine.name()),
            ])?;
        }
        Ok(())
    }

    fn process(&self, families: &mut FamilyEncoder) -> fmt::Result {
        let Self(state) = self;
        families.gauge(
            "process_start_time",
            "Start time of the server since the Unix epoch.",
            Some(&Unit::Seconds),
            &since_1970(state.metrics.started_at),
        )?;
        families.gauge(
            "process_uptime",
            "Time since the server started.",
            Some(&Unit::Seconds),
            &state.metrics.uptime(Instant::now()).as_secs_f64(),
        )?;
        match resident_bytes() {
            None => Ok(()),
            Some(bytes) => families.gauge(
                "process_resident_memory",
                "Resident memory of the process.",
                Some(&Unit::Bytes),
                &bytes,
            ),
        }
    }
}

/// Writes one metric family after another.
struct FamilyEncoder<'a>(DescriptorEncoder<'a>);

impl FamilyEncoder<'_> {
    fn family<'s>(
        &'s mut self,
        name: &'s str,
        help: &str,
        unit: Option<&'s Unit>,
        metric_type: MetricType,
    ) -> Result<MetricEncoder<'s>, Error> {
        self.0.encode_descriptor(name, help, unit, metric_type)
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        histogram: &Histogram,
    ) -> fmt::Result {
        histogram.encode(self.family(name, help, unit, MetricType::Histogram)?)
    }

    fn counter(&mut self, name: &str, help: &str, unit: Option<&Unit>, count: u64) -> fmt::Result {
        let mut family = self.family(name, help, unit, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, u64>(&count, None)
    }

    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: &impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge)?
            .encode_gauge(value)
    }
}

fn since_1970(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs_f64()
}

/// Resident memory in bytes, from `/proc` on Linux; `None` elsewhere.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
