//! Request IDs, and the log's line for each request.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{
    Server, ServerProcess, TRACE_ID, sample_value, settings, slow_predict_body, traceparent,
    wait_until,
};

#[tokio::test]
async fn request_id_is_kept_or_generated() {
    let server = Server::start(settings("v1")).await;
    let id_for = async |sent: Option<&str>, path: &str| {
        let mut request = server.client.get(path);
        if let Some(id) = sent {
            request = request.header("x-request-id", id);
        }
        let response = request.send().await.unwrap();
        response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    for path in ["/health", "/predict", "/nothing"] {
        assert_eq!(id_for(Some("client-id"), path).await, "client-id");
        let (one, other) = (
            id_for(None, path).await,
            id_for(Some("not valid"), path).await,
        );
        assert_eq!((one.len(), other.len()), (16, 16));
        assert_ne!(one, other);
    }
    server.stop().await.unwrap();
}

/// Returns the lines of `log` that belong to requests.
fn request_lines(log: &[Value]) -> Vec<&Value> {
    log.iter()
        .filter(|line| line.get("request_id").is_some())
        .collect()
}

#[tokio::test]
async fn request_log_omits_only_probes_and_metrics() {
    let server = ServerProcess::start(&[("GRACE_SECONDS", "0.3")]).await;
    let good = server
        .client
        .predict_request(&json!({"text": "fine"}))
        .header("x-request-id", "first")
        .header("traceparent", traceparent());
    assert_eq!(good.send().await.unwrap().status(), 200);
    let bad = server
        .client
        .predict_request(&json!({}))
        .header("x-request-id", "second");
    assert_eq!(bad.send().await.unwrap().status(), 400);
    server.client.get("/nothing?secret=1").send().await.unwrap();
    for path in ["/health", "/livez", "/readyz", "/startupz", "/metrics"] {
        assert_eq!(server.client.get(path).send().await.unwrap().status(), 200);
    }
    server.signal("TERM").await;
    wait_until("the server drains", || async {
        server.client.health().await.0 == 503
    })
    .await;
    let log = server.read_log().await;
    let lines = request_lines(&log);
    assert_eq!(lines.len(), 3, "{log:#?}");

    let line = lines[0];
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["request_id"], "first");
    assert_eq!(
        (&line["method"], &line["route"]),
        (&json!("POST"), &json!("/predict"))
    );
    assert_eq!(line["status"], 200);
    assert_eq!(line["trace_id"], TRACE_ID);
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
async fn failures_log_contains_only_server_errors() {
    let server = ServerProcess::start(&[
        ("GRACE_SECONDS", "0"),
        ("REQUEST_LOG", "failures"),
        ("MODEL_VERSION", "v2"),
        ("QUEUE_CAPACITY", "80000"),
        ("MAX_BODY_BYTES", "1048576"),
    ])
    .await;
    assert_eq!(server.client.predict("fine").await.status(), 200);
    assert_eq!(
        server
            .client
            .predict_request(&json!({}))
            .send()
            .await
            .unwrap()
            .status(),
        400
    );
    let late = server
        .client
        .predict_request(&slow_predict_body())
        .header("x-request-timeout-ms", "250");
    assert_eq!(late.send().await.unwrap().status(), 504);
    server.signal("TERM").await;
    let log = server.read_log().await;
    let lines = request_lines(&log);
    assert_eq!(lines.len(), 1, "{log:#?}");
    assert_eq!(
        (&lines[0]["level"], &lines[0]["status"]),
        (&json!("ERROR"), &json!(504))
    );
    assert_eq!(lines[0]["error"], "timeout");
    let reason = lines[0]["reason"].as_str().unwrap();
    assert!(reason.contains("no prediction within"), "{reason}");
}

#[tokio::test]
async fn client_disconnect_is_logged_with_status_499() {
    let server = ServerProcess::start(&[
        ("GRACE_SECONDS", "0"),
        ("MODEL_VERSION", "v2"),
        ("QUEUE_CAPACITY", "80000"),
    ])
    .await;
    let request = server
        .client
        .predict_request(&slow_predict_body())
        .header("x-request-id", "disconnecting")
        .header("traceparent", traceparent())
        .timeout(Duration::from_millis(250));
    assert!(request.send().await.unwrap_err().is_timeout());
    wait_until("the disconnect is noticed", || async {
        server.client.health().await.1["in_flight"] == 0
    })
    .await;
    server.signal("TERM").await;
    let log = server.read_log().await;
    let lines = request_lines(&log);
    assert_eq!(lines.len(), 1, "{log:#?}");
    for (name, value) in [
        ("message", json!("client left")),
        ("level", json!("INFO")),
        ("request_id", json!("disconnecting")),
        ("method", json!("POST")),
        ("route", json!("/predict")),
        ("status", json!(499)),
        ("trace_id", json!(TRACE_ID)),
    ] {
        assert_eq!(lines[0][name], value, "{name}");
    }
    assert!(lines[0]["latency_ms"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn unread_log_drops_lines_without_blocking_requests() {
    let server = ServerProcess::start(&[("GRACE_SECONDS", "0")]).await;
    let senders = (0..16).map(|_| {
        let client = server.client.clone();
        tokio::spawn(async move {
            let path = format!("/{}", "a".repeat(300));
            for _ in 0..700 {
                let request = client.get(&path);
                let request = request.header("x-request-id", "a".repeat(128));
                assert_eq!(request.send().await.unwrap().status(), 404);
            }
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.await.unwrap();
    }
    assert_eq!(server.client.predict("fine").await.status(), 200);
    let text = server.client.metrics().await;
    let dropped = sample_value(&text, "model_server_log_lines_dropped_total").unwrap();
    assert!(dropped > 0.0, "{text}");
    server.signal("TERM").await;
    let log = server.read_log().await;
    let reported = log.iter().filter_map(|line| line["dropped"].as_f64());
    assert!(
        reported.sum::<f64>() >= dropped,
        "{dropped} lines were dropped"
    );
}
