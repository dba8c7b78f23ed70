use std::time::Instant;

use axum::{Router, body::Bytes, routing::post};
use jiff::Timestamp;
use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::mpsc};

use super::*;
use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    event::{Event, Reporter as _},
    evidence::verdict::{Conclusion, Verdict},
    release::Release,
};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An OTLP collector that accepts every export, and keeps its bytes.
struct Collector {
    url: String,
    exports: mpsc::UnboundedReceiver<Bytes>,
}

impl Collector {
    async fn start() -> Self {
        let (sender, exports) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let store = async move |body: Bytes| sender.send(body).unwrap();
        let router = Router::new().route("/v1/traces", post(store));
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, exports }
    }

    /// Decodes all exports so far. A message with an unknown shape fails the test.
    fn received(&mut self) -> (Vec<KeyValue>, Vec<Span>) {
        let (mut resource, mut spans) = (Vec::new(), Vec::new());
        while let Ok(body) = self.exports.try_recv() {
            let decoded = ExportTraceServiceRequest::decode(body.clone()).unwrap();
            assert_eq!(decoded.encode_to_vec(), body, "no unknown fields");
            for group in decoded.resource_spans {
                resource = group.resource.unwrap().attributes;
                spans.extend(group.scope_spans.into_iter().flat_map(|it| it.spans));
            }
        }
        (resource, spans)
    }
}

fn traces(url: &str) -> Traces {
    let mut settings = crate::config::load(None, &[]).unwrap();
    url.clone_into(&mut settings.traces.endpoint);
    Traces::connect(&settings).unwrap().unwrap()
}

fn plan(trace: Option<DeploymentTrace>) -> Plan {
    let release = Release {
        model: "sentiment".to_owned(),
        version: "v2".to_owned(),
        digest: None,
    };
    Plan {
        trace,
        ..Plan::new(Timestamp::now(), Color::Blue, release)
    }
}

fn reach(traces: &Traces, phase: Phase, reason: Option<&str>) {
    let reporter = traces.reporter();
    reporter.report(&Event::PhaseReached { phase, reason });
}

fn judge(traces: &Traces, gate: &'static str, verdict: &Verdict) {
    let reporter = traces.reporter();
    reporter.report(&Event::GateStarted { gate });
    reporter.report(&Event::GateFinished { gate, verdict });
}

fn text(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|it| it.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        other => Some(format!("{other:?}")),
    }
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found = spans.iter().find(|span| span.name == name);
    found.unwrap_or_else(|| panic!("{name}: {spans:#?}"))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn trace_continues_the_callers_or_begins_a_new_one() {
    let continued = begin_below(Some(CALLER));
    assert_eq!(continued.id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(continued.parent.as_deref(), Some("00f067aa0ba902b7"));
    assert!(continued.sampled);
    assert!(otlp::parent_span(&continued.traceparent(), None).is_some());
    let unsampled = begin_below(Some(&CALLER.replace("b7-01", "b7-00")));
    assert!(!unsampled.sampled);
    for missing in [None, Some("nonsense")] {
        let new = begin_below(missing);
        assert_eq!((new.parent.clone(), new.sampled), (None, true));
        assert!(TraceId::from_hex(&new.id).is_ok_and(|id| id != TraceId::INVALID));
        assert!(SpanId::from_hex(&new.span).is_ok_and(|id| id != SpanId::INVALID));
        assert_ne!(new.id, begin_below(missing).id);
    }
}

#[test]
fn traces_are_off_without_a_collector() {
    let settings = crate::config::load(None, &[]).unwrap();
    assert!(Traces::connect(&settings).unwrap().is_none());
    assert_eq!(begin(&settings), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_deployment_is_one_trace_with_phases_and_verdicts() {
    let mut collector = Collector::start().await;
    let traces = traces(&collector.url);
    let trace = begin_below(Some(CALLER));
    let plan = plan(Some(trace.clone()));
    traces.reporter().report(&Event::Planned { plan: &plan });
    for phase in [Phase::Planned, Phase::Starting, Phase::Healthy] {
        reach(&traces, phase, None);
    }
    judge(
        &traces,
        "identity",
        &Verdict::new(Conclusion::Pass, "it is v2"),
    );
    let verdict = Verdict::new(Conclusion::Fail, "right on 1 of 3 inputs").with("accuracy", 0.33);
    judge(&traces, "golden", &verdict);
    reach(
        &traces,
        Phase::Refused,
        Some("golden: right on 1 of 3 inputs"),
    );
    assert_eq!(traces.stop().await, None);

    let (resource, spans) = collector.received();
    assert_eq!(text(&resource, "service.name").as_deref(), Some("deployer"));
    assert_eq!(spans.len(), 6, "{spans:#?}");
    let root = named(&spans, "RUN deploy sentiment");
    assert_eq!(root.kind(), SpanKind::Server);
    assert_eq!(hex(&root.span_id), trace.span);
    assert_eq!(hex(&root.parent_span_id), "00f067aa0ba902b7");
    for (key, value) in [
        ("cicd.pipeline.name", "deploy sentiment"),
        ("cicd.pipeline.action.name", "RUN"),
        ("cicd.pipeline.run.id", &plan.id),
        ("cicd.pipeline.result", "failure"),
        ("deployment.id", &plan.id),
        ("deployment.status", "failed"),
        ("error.type", "refused"),
        ("model.version", "v2"),
        ("deployer.candidate", "green"),
        ("deployer.reason", "golden: right on 1 of 3 inputs"),
    ] {
        assert_eq!(text(&root.attributes, key).as_deref(), Some(value), "{key}");
    }
    let healthy = named(&spans, "healthy");
    for (phase, result) in [
        ("planned", "success"),
        ("starting", "success"),
        ("healthy", "failure"),
    ] {
        let span = named(&spans, phase);
        assert_eq!(span.parent_span_id, root.span_id, "{phase}");
        let found = text(&span.attributes, "cicd.pipeline.task.run.result");
        assert_eq!(found.as_deref(), Some(result), "{phase}");
    }
    let golden = named(&spans, "golden");
    assert_eq!(golden.parent_span_id, healthy.span_id);
    assert_eq!(golden.status.as_ref().unwrap().code(), StatusCode::Error);
    for (key, value) in [
        ("cicd.pipeline.task.name", "golden"),
        ("cicd.pipeline.task.type", "test"),
        ("cicd.pipeline.task.run.result", "failure"),
        ("deployer.gate.verdict", "fail"),
        ("deployer.gate.summary", "right on 1 of 3 inputs"),
        ("deployer.gate.numbers.accuracy", "DoubleValue(0.33)"),
    ] {
        assert_eq!(
            text(&golden.attributes, key).as_deref(),
            Some(value),
            "{key}"
        );
    }
    for span in &spans {
        assert_eq!(hex(&span.trace_id), trace.id, "{}", span.name);
        assert!(
            span.start_time_unix_nano <= span.end_time_unix_nano,
            "{}",
            span.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recovered_deployment_continues_its_trace() {
    let mut collector = Collector::start().await;
    let traces = traces(&collector.url);
    let plan = plan(Some(begin_below(None)));
    let (phase, since) = (Phase::Switched, Timestamp::now());
    traces.reporter().report(&Event::Resumed {
        plan: &plan,
        phase,
        since,
    });
    traces.reporter().report(&Event::TrafficMoved {
        from: Color::Green,
        to: Color::Blue,
        unconfirmed: &[],
    });
    reach(
        &traces,
        Phase::RolledBack,
        Some("the deployer was interrupted"),
    );
    assert_eq!(traces.stop().await, None);
    let (_, spans) = collector.received();
    let root = named(&spans, "RUN deploy sentiment");
    assert_eq!(hex(&root.span_id), plan.trace.unwrap().span);
    assert!(root.parent_span_id.is_empty());
    let switched = named(&spans, "switched");
    assert_eq!(switched.parent_span_id, root.span_id);
    assert_eq!(switched.events[0].name, "traffic_moved");
    assert_eq!(
        text(&root.attributes, "error.type").as_deref(),
        Some("rolled_back")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unsampled_or_untraced_deployment_sends_nothing() {
    let mut collector = Collector::start().await;
    let unsampled = begin_below(Some(&CALLER.replace("b7-01", "b7-00")));
    for trace in [None, Some(unsampled)] {
        let traces = traces(&collector.url);
        traces
            .reporter()
            .report(&Event::Planned { plan: &plan(trace) });
        reach(&traces, Phase::Planned, None);
        reach(&traces, Phase::Refused, Some("a test"));
        assert_eq!(traces.stop().await, None);
        assert_eq!(collector.received().1, []);
    }
}

/// Returns what is reported about a deployment whose collector has this address, and how long the exit took.
async fn report_of(url: &str) -> (Option<String>, Duration) {
    let traces = traces(url);
    let plan = plan(Some(begin_below(None)));
    traces.reporter().report(&Event::Planned { plan: &plan });
    reach(&traces, Phase::Refused, Some("a test"));
    let began = Instant::now();
    let reported = traces.stop().await;
    drop(traces);
    (reported, began.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_collector_is_reported_and_delays_the_exit_little() {
    let (reported, _) = report_of("http://127.0.0.1:1").await;
    let reported = reported.unwrap();
    assert!(
        reported.contains("http://127.0.0.1:1/v1/traces"),
        "{reported}"
    );
    // The operating system accepts connections to this port, and nothing reads from them.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (reported, elapsed) = report_of(&url).await;
    assert!(reported.unwrap().contains("it did not answer within 3 s"));
    assert!(elapsed < Duration::from_secs(6), "{elapsed:?}");
}
