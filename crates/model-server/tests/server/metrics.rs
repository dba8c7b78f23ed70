//! What the server tells of its work: metrics, request ids, lines in the log, and traces.

use std::time::{Duration, Instant};

use axum::{Router, body::Bytes, extract::State, routing::post};
use model_server::Settings;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as AnyValue},
    trace::v1::{Span, Status, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use reqwest::{RequestBuilder, Response, header};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::support::{Asker, Process, Server, command, outcome, settings, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

fn asking(ask: &Asker, body: &Value) -> RequestBuilder {
    ask.client.post(format!("{}/predict", ask.url)).json(body)
}

async fn get(ask: &Asker, path: &str) -> Response {
    let request = ask.client.get(format!("{}{path}", ask.url));
    request.send().await.unwrap()
}

async fn metrics(ask: &Asker) -> String {
    get(ask, "/metrics").await.text().await.unwrap()
}

/// The value of a sample, by its name and labels as they are written.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    let rest = metrics
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    rest.map(|value| value.parse().unwrap())
}

#[tokio::test]
async fn metrics_count_requests_by_route_method_and_code() {
    let server = Server::start(settings("v1")).await;
    for _ in 0..3 {
        assert_eq!(server.ask.predict("fine").await.status(), 200);
    }
    let bad = asking(&server.ask, &json!({})).send().await.unwrap();
    assert_eq!(bad.status(), 400);
    for path in ["/nothing", "/nothing/else?q=1", "/predict"] {
        get(&server.ask, path).await;
    }
    let text = metrics(&server.ask).await;
    for (labels, count) in [
        (r#"route="/predict",method="POST",code="200""#, 3.0),
        (r#"route="/predict",method="POST",code="400""#, 1.0),
        (r#"route="/predict",method="GET",code="405""#, 1.0),
        (r#"route="unmatched",method="GET",code="404""#, 2.0),
    ] {
        let name = format!("model_server_requests_total{{{labels}}}");
        assert_eq!(sample(&text, &name), Some(count), "{name}\n{text}");
    }
    for (kind, count) in [("field", 1.0), ("unknown_path", 2.0), ("wrong_method", 1.0)] {
        let name = format!(r#"model_server_errors_total{{kind="{kind}"}}"#);
        assert_eq!(sample(&text, &name), Some(count), "{name}\n{text}");
    }
    assert!(
        !text.contains("nothing"),
        "a client's path is a label\n{text}"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn histograms_have_a_value_for_each_request_and_each_forward_pass() {
    let server = Server::start(settings("v1")).await;
    for text in ["fine", "a fine film", "not so fine"] {
        server.ask.predict(text).await;
    }
    asking(&server.ask, &json!({})).send().await.unwrap();
    let text = metrics(&server.ask).await;
    let value = |name: &str| sample(&text, name).unwrap_or_else(|| panic!("no {name}\n{text}"));
    for (name, count) in [
        (
            r#"model_server_request_duration_seconds_count{route="/predict"}"#,
            4.0,
        ),
        (
            r#"model_server_request_duration_seconds_bucket{le="+Inf",route="/predict"}"#,
            4.0,
        ),
        ("model_server_queue_time_seconds_count", 3.0),
        ("model_server_tokenize_time_seconds_count", 3.0),
        ("model_server_inference_time_seconds_count", 3.0),
        ("model_server_batch_texts_count", 3.0),
        ("model_server_batch_texts_sum", 3.0),
        ("model_server_batch_tokens_count", 3.0),
        ("model_server_padding_tokens_total", 0.0),
        ("model_server_engine_panics_total", 0.0),
        ("model_server_log_lines_dropped_total", 0.0),
        ("model_server_queue_depth", 0.0),
        ("model_server_in_flight_requests", 0.0),
        ("model_server_ready", 1.0),
    ] {
        assert!((value(name) - count).abs() < f64::EPSILON, "{name}\n{text}");
    }
    for name in [
        r#"model_server_request_duration_seconds_sum{route="/predict"}"#,
        "model_server_inference_time_seconds_sum",
        "model_server_batch_tokens_sum",
        "process_start_time_seconds",
        "process_uptime_seconds",
        "process_resident_memory_bytes",
    ] {
        assert!(value(name) > 0.0, "{name}\n{text}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn metrics_name_the_release_that_health_names() {
    let server = Server::start(settings("v1")).await;
    let (_, health) = server.ask.health().await;
    let ask = server.ask.client.get(format!("{}/metrics", server.ask.url));
    let ask = ask.header(header::ACCEPT, "application/openmetrics-text;version=1.0.0");
    let response = ask.send().await.unwrap();
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let text = response.text().await.unwrap();
    let digest = health["model_digest"].as_str().unwrap();
    let name = format!(
        r#"model_info{{model_name="sentiment",model_version="v1",model_digest="{digest}",engine="rten"}}"#
    );
    assert_eq!(sample(&text, &name), Some(1.0), "{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");

    // Whoever does not ask for that format gets the older one.
    let response = get(&server.ask, "/metrics").await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let text = response.text().await.unwrap();
    assert_eq!(sample(&text, &name), Some(1.0), "{text}");
    assert!(!text.contains("# EOF"), "{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_request_keeps_its_id_or_gets_one() {
    let server = Server::start(settings("v1")).await;
    let id_for = async |given: Option<&str>, path: &str| {
        let mut request = server.ask.client.get(format!("{}{path}", server.ask.url));
        if let Some(id) = given {
            request = request.header("x-request-id", id);
        }
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    for path in ["/health", "/predict", "/nothing"] {
        assert_eq!(id_for(Some("as-given"), path).await, "as-given");
        let (one, other) = (
            id_for(None, path).await,
            id_for(Some("not sane"), path).await,
        );
        assert_eq!((one.len(), other.len()), (16, 16));
        assert_ne!(one, other);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn answers_tell_the_time_of_their_stages() {
    let server = Server::start(settings("v1")).await;
    for body in [
        json!({"text": "fine"}),
        json!({"texts": ["fine", "not so fine"]}),
    ] {
        let answer = asking(&server.ask, &body).send().await.unwrap();
        let stages = answer.headers()["server-timing"].to_str().unwrap();
        let times: Vec<(&str, f64)> = stages
            .split(", ")
            .map(|stage| stage.split_once(";dur=").unwrap())
            .map(|(name, time)| (name, time.parse().unwrap()))
            .collect();
        let names: Vec<&str> = times.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["queue", "tokenize", "inference"], "{stages}");
        assert!(times[2].1 > 0.0, "{stages}");
    }
    let bad = asking(&server.ask, &json!({})).send().await.unwrap();
    assert!(bad.headers().get("server-timing").is_none());
    server.stop().await.unwrap();
}

/// The lines of a log that belong to requests.
fn requests(log: &[Value]) -> Vec<&Value> {
    log.iter()
        .filter(|line| line.get("request_id").is_some())
        .collect()
}

#[tokio::test]
async fn each_request_but_for_health_and_metrics_has_a_line() {
    let server = Process::start(&[("GRACE_SECONDS", "0.3")]).await;
    let answered = asking(&server.ask, &json!({"text": "fine"}))
        .header("x-request-id", "first")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"));
    assert_eq!(answered.send().await.unwrap().status(), 200);
    let bad = asking(&server.ask, &json!({})).header("x-request-id", "second");
    assert_eq!(bad.send().await.unwrap().status(), 400);
    get(&server.ask, "/nothing?secret=1").await;
    for path in ["/health", "/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(get(&server.ask, path).await.status(), 200);
    }
    server.signal("TERM").await;
    until("draining", || async { server.ask.health().await.0 == 503 }).await;
    let log = server.log().await;
    let lines = requests(&log);
    assert_eq!(lines.len(), 3, "{log:#?}");

    let line = lines[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["request_id"], "first");
    assert_eq!(
        (&line["method"], &line["route"]),
        (&json!("POST"), &json!("/predict"))
    );
    assert_eq!(line["status"], 200);
    assert_eq!(line["trace_id"], TRACE);
    let time = |name: &str| line[name].as_f64().unwrap();
    let stages = time("queue_ms") + time("tokenize_ms") + time("inference_ms");
    assert!(
        time("inference_ms") > 0.0 && stages <= time("latency_ms"),
        "{line}"
    );

    let line = lines[1];
    assert_eq!(
        (&line["request_id"], &line["status"]),
        (&json!("second"), &json!(400))
    );
    assert_eq!(line["error"], "field");
    for absent in ["trace_id", "queue_ms", "path"] {
        assert!(line.get(absent).is_none(), "{line}");
    }

    let line = lines[2];
    assert_eq!(
        (&line["route"], &line["path"]),
        (&json!("unmatched"), &json!("/nothing"))
    );
    assert_eq!(log.last().unwrap()["message"], "stopped");
}

#[tokio::test]
async fn told_to_log_failures_it_logs_only_what_it_failed() {
    let server = Process::start(&[
        ("GRACE_SECONDS", "0"),
        ("REQUEST_LOG", "failures"),
        ("MODEL_VERSION", "v2"),
        ("QUEUE_CAPACITY", "80000"),
        ("MAX_BODY_BYTES", "1048576"),
    ])
    .await;
    assert_eq!(server.ask.predict("fine").await.status(), 200);
    assert_eq!(
        asking(&server.ask, &json!({}))
            .send()
            .await
            .unwrap()
            .status(),
        400
    );
    let late = asking(&server.ask, &many_texts()).header("x-request-timeout-ms", "250");
    assert_eq!(late.send().await.unwrap().status(), 504);
    server.signal("TERM").await;
    let log = server.log().await;
    let lines = requests(&log);
    assert_eq!(lines.len(), 1, "{log:#?}");
    assert_eq!(
        (&lines[0]["level"], &lines[0]["status"]),
        (&json!("ERROR"), &json!(504))
    );
    assert_eq!(lines[0]["error"], "timeout");
    let reason = lines[0]["reason"].as_str().unwrap();
    assert!(reason.contains("no prediction within"), "{reason}");
}

/// More than the larger release does in a moment, on any machine.
fn many_texts() -> Value {
    json!({"texts": vec!["not so fine, not so fine"; 20_000]})
}

#[tokio::test]
async fn a_client_that_leaves_is_counted_and_is_no_error() {
    let mut settings = settings("v2");
    settings.queue_capacity = 80_000.try_into().unwrap();
    settings.max_body_bytes = 1024 * 1024;
    let server = Server::start(settings).await;
    let impatient = asking(&server.ask, &many_texts()).timeout(Duration::from_millis(250));
    assert!(impatient.send().await.unwrap_err().is_timeout());
    let left = r#"model_server_requests_total{route="/predict",method="POST",code="499"}"#;
    until("counted", || async {
        sample(&metrics(&server.ask).await, left) == Some(1.0)
    })
    .await;
    let (_, health) = server.ask.health().await;
    assert_eq!(
        (&health["request_count"], &health["error_count"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(health["in_flight"], 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_with_status_499() {
    let server = Process::start(&[
        ("GRACE_SECONDS", "0"),
        ("MODEL_VERSION", "v2"),
        ("QUEUE_CAPACITY", "80000"),
    ])
    .await;
    let impatient = asking(&server.ask, &many_texts())
        .header("x-request-id", "impatient")
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .timeout(Duration::from_millis(250));
    assert!(impatient.send().await.unwrap_err().is_timeout());
    until("noticed", || async {
        server.ask.health().await.1["in_flight"] == 0
    })
    .await;
    server.signal("TERM").await;
    let log = server.log().await;
    let lines = requests(&log);
    assert_eq!(lines.len(), 1, "{log:#?}");
    for (name, value) in [
        ("message", json!("client left")),
        ("level", json!("INFO")),
        ("request_id", json!("impatient")),
        ("method", json!("POST")),
        ("route", json!("/predict")),
        ("status", json!(499)),
        ("trace_id", json!(TRACE)),
    ] {
        assert_eq!(lines[0][name], value, "{name}");
    }
    assert!(lines[0]["latency_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_path_with_a_trailing_slash_is_that_path() {
    let server = Server::start(settings("v1")).await;
    let body = json!({"text": "fine"});
    let url = format!("{}/predict/", server.ask.url);
    let response = server.ask.client.post(url).json(&body).send().await;
    assert_eq!(response.unwrap().status(), 200);
    assert_eq!(get(&server.ask, "/health/?verbose=1").await.status(), 200);
    assert_eq!(get(&server.ask, "/nothing/").await.status(), 404);
    let text = metrics(&server.ask).await;
    for labels in [
        r#"route="/predict",method="POST",code="200""#,
        r#"route="unmatched",method="GET",code="404""#,
    ] {
        let name = format!("model_server_requests_total{{{labels}}}");
        assert_eq!(sample(&text, &name), Some(1.0), "{name}\n{text}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_no_request_and_tells_what_it_lost() {
    let server = Process::start(&[("GRACE_SECONDS", "0")]).await;
    let filling = (0..16).map(|_| {
        let ask = server.ask.clone();
        tokio::spawn(async move {
            let path = format!("/{}", "a".repeat(300));
            for _ in 0..700 {
                let request = ask.client.get(format!("{}{path}", ask.url));
                let request = request.header("x-request-id", "a".repeat(128));
                assert_eq!(request.send().await.unwrap().status(), 404);
            }
        })
    });
    for each in filling.collect::<Vec<_>>() {
        each.await.unwrap();
    }
    assert_eq!(server.ask.predict("fine").await.status(), 200);
    let text = metrics(&server.ask).await;
    let lost = sample(&text, "model_server_log_lines_dropped_total").unwrap();
    assert!(lost > 0.0, "{text}");
    server.signal("TERM").await;
    let log = server.log().await;
    let told = log.iter().filter_map(|line| line["dropped"].as_f64());
    assert!(told.sum::<f64>() >= lost, "{lost} lines were lost");
}

/// A collector that takes what it is sent.
struct Collector {
    url: String,
    taken: mpsc::UnboundedReceiver<Bytes>,
}

impl Collector {
    async fn start() -> Self {
        let (take, taken) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let traces = async |State(take): State<mpsc::UnboundedSender<Bytes>>, body: Bytes| {
            take.send(body).unwrap();
        };
        let router = Router::new()
            .route("/v1/traces", post(traces))
            .with_state(take);
        tokio::spawn(async { axum::serve(listener, router).await.unwrap() });
        Self { url, taken }
    }

    fn settings(&self) -> Settings {
        Settings {
            otlp_endpoint: Some(self.url.clone()),
            ..settings("v1")
        }
    }

    /// Everything that has arrived: the resource's attributes, and the spans.
    fn arrived(mut self) -> (Vec<KeyValue>, Vec<Span>) {
        let (mut resource, mut spans) = (Vec::new(), Vec::new());
        while let Ok(body) = self.taken.try_recv() {
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

fn text(value: &str) -> AnyValue {
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
async fn a_traced_request_is_a_span_of_its_callers_trace_with_its_stages_below() {
    let collector = Collector::start().await;
    let server = Server::start(collector.settings()).await;
    let request = asking(&server.ask, &json!({"text": "fine"}))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-01"))
        .header("tracestate", "vendor=value");
    assert_eq!(request.send().await.unwrap().status(), 200);
    server.stop().await.unwrap();

    let (resource, spans) = collector.arrived();
    assert_eq!(
        attribute(&resource, "service.name"),
        Some(&text("model-server"))
    );
    assert!(attribute(&resource, "service.version").is_some());
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let request = named("POST /predict");
    assert_eq!(request.kind(), SpanKind::Server);
    assert_eq!(hex(&request.parent_span_id), CALLER);
    assert_eq!(request.trace_state, "vendor=value");
    for (key, value) in [
        ("http.request.method", text("POST")),
        ("http.route", text("/predict")),
        ("url.path", text("/predict")),
        ("http.response.status_code", AnyValue::IntValue(200)),
        ("model.name", text("sentiment")),
        ("model.version", text("v1")),
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
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
    }
}

#[tokio::test]
async fn a_request_without_a_caller_begins_a_trace_and_one_that_is_not_sampled_is_none() {
    let collector = Collector::start().await;
    let server = Server::start(collector.settings()).await;
    let not_sampled = asking(&server.ask, &json!({"text": "fine"}))
        .header("traceparent", format!("00-{TRACE}-{CALLER}-00"));
    assert_eq!(not_sampled.send().await.unwrap().status(), 200);
    get(&server.ask, "/metrics").await;
    get(&server.ask, "/nothing").await;
    // As broken as no caller at all.
    let broken =
        asking(&server.ask, &json!({})).header("traceparent", format!("ff-{TRACE}-{CALLER}-01"));
    assert_eq!(broken.send().await.unwrap().status(), 400);
    server.stop().await.unwrap();

    let (_, spans) = collector.arrived();
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["GET", "POST /predict"]);
    assert_ne!(spans[0].trace_id, spans[1].trace_id);
    for span in &spans {
        assert_ne!(hex(&span.trace_id), TRACE);
        assert!(span.parent_span_id.is_empty());
        // A client's mistake is no error of the server.
        let failed = |status: &Status| status.code() != StatusCode::Unset;
        assert!(!span.status.as_ref().is_some_and(failed), "{span:#?}");
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_no_request_and_the_exit_by_little() {
    // It takes connections, as far as the operating system does that for it.
    let collector = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let mut server = Process::start(&[
        ("GRACE_SECONDS", "0"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &url),
        ("OTEL_BSP_SCHEDULE_DELAY", "1"),
    ])
    .await;
    for _ in 0..50 {
        assert_eq!(server.ask.predict("fine").await.status(), 200);
    }
    let told = Instant::now();
    server.signal("TERM").await;
    assert_eq!(server.exit().await.code(), Some(0));
    let took = told.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_a_usage_error() {
    let mut command = command();
    command.envs([
        ("MODEL_VERSION", "v1"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
    ]);
    let (code, _, message) = outcome(&mut command).await;
    assert_eq!(code, Some(2), "{message}");
    assert!(
        message.contains("expected such as http://localhost:4318"),
        "{message}"
    );
}
