//! The trace of a deployment at an OpenTelemetry collector, and its ID and the hash of the history everywhere else.

use std::{ffi::OsStr, fs};

use anyhow::{Context as _, ensure};
use axum::{Router, body::Bytes, routing::post};
use end_to_end::{AlertReceiver, BakeDuration, Stack};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span,
};
use prost::Message as _;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc};

type Result<T = ()> = anyhow::Result<T>;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// An OTLP collector that accepts every export, and keeps its bytes.
async fn start_collector() -> Result<(String, mpsc::UnboundedReceiver<Bytes>)> {
    let (sender, exports) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    // The test may end first.
    let store = async move |body: Bytes| drop(sender.send(body));
    let router = Router::new().route("/v1/traces", post(store));
    tokio::spawn(async { axum::serve(listener, router).await });
    Ok((url, exports))
}

/// The spans of the deployer: its model servers send spans too.
fn spans_of_deployer(exports: &mut mpsc::UnboundedReceiver<Bytes>) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    while let Ok(body) = exports.try_recv() {
        for group in ExportTraceServiceRequest::decode(body)?.resource_spans {
            let scopes = group.scope_spans.into_iter();
            let own = scopes.filter(|it| it.scope.as_ref().is_some_and(|it| it.name == "deployer"));
            spans.extend(own.flat_map(|it| it.spans));
        }
    }
    Ok(spans)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_is_one_trace_whose_id_is_in_report_history_and_notification() -> Result {
    let stack = Stack::with_processes(
        "model-server",
        BakeDuration(std::time::Duration::from_secs(1)),
    )?;
    stack.expect_exit(0, &["up"]).await?;
    let (collector, mut exports) = start_collector().await?;
    let receiver = AlertReceiver::start(0).await?;
    let url = receiver.url();
    let environment: [(&str, &OsStr); 3] = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.as_ref()),
        ("TRACEPARENT", CALLER.as_ref()),
        ("DEPLOYER_ALERTS_WEBHOOK", url.as_ref()),
    ];
    let hook = r#"hooks.after.promoted=["sh","-c","echo $TRACEPARENT > hook.txt"]"#;
    let inconclusive = "bake.on_inconclusive=promote";
    let patience = "health.stall=30s";
    let deploy = [
        "deploy",
        "v2",
        "--json",
        "--set",
        inconclusive,
        "--set",
        patience,
        "--set",
        hook,
    ];
    let deployer = stack.start_deployer_with(&deploy, &environment)?;
    let run = Stack::wait_for_exit(deployer, &deploy).await?;
    ensure!(run.code == 0, "{run:?}");

    let last = run.stdout.lines().last().context("a line")?;
    let ended: Value = serde_json::from_str(last)?;
    ensure!(ended["trace"] == TRACE, "{ended}");
    let id = ended["id"].as_str().context("an ID")?;
    let report: Value = serde_json::from_str(&fs::read_to_string(
        stack.path(&format!("state/reports/{id}.json")),
    )?)?;
    ensure!(report["plan"]["trace"]["id"] == TRACE, "{report}");
    let history = fs::read_to_string(stack.path("state/history.jsonl"))?;
    ensure!(
        history.contains(&format!("\"trace\":\"{TRACE}\"")),
        "{history}"
    );
    let notification = &receiver.alerts()[0];
    ensure!(notification["trace"] == TRACE, "{notification}");

    let spans = spans_of_deployer(&mut exports)?;
    let root = spans
        .iter()
        .find(|span| span.name == "RUN deploy sentiment");
    let root = root.with_context(|| format!("{spans:#?}"))?;
    ensure!(hex(&root.parent_span_id) == "00f067aa0ba902b7");
    ensure!(spans.iter().all(|span| hex(&span.trace_id) == TRACE));
    let named = |name: &str| {
        spans
            .iter()
            .find(|span| span.name == name)
            .context(name.to_owned())
    };
    for phase in ["planned", "starting", "healthy", "validated", "switched"] {
        ensure!(named(phase)?.parent_span_id == root.span_id, "{phase}");
    }
    for (gate, phase) in [("smoke", "healthy"), ("bake", "switched")] {
        ensure!(
            named(gate)?.parent_span_id == named(phase)?.span_id,
            "{gate}"
        );
    }
    let traceparent = fs::read_to_string(stack.path("hook.txt"))?;
    let expected = format!("00-{TRACE}-{}-01\n", hex(&root.span_id));
    ensure!(traceparent == expected, "{traceparent}");

    // The hash of the notification is in the history, until a person edits a line.
    let hash = notification["history"].as_str().context("a hash")?;
    stack.expect_exit(0, &["history", "--verify", hash]).await?;
    fs::write(
        stack.path("state/history.jsonl"),
        history.replace("\"promoted\"", "\"refused\""),
    )?;
    let run = stack.expect_exit(1, &["history", "--verify", hash]).await?;
    ensure!(run.stdout.contains("line 1 was edited"), "{run:?}");
    Ok(())
}
