//! Metrics, and the header `server-timing`.

use std::time::Duration;

use reqwest::header;
use serde_json::json;

use crate::support::{Server, sample_value, settings, slow_predict_body, wait_until};

#[tokio::test]
async fn metrics_count_requests_by_route_method_and_code() {
    let server = Server::start(settings("v1")).await;
    for _ in 0..3 {
        assert_eq!(server.client.predict("fine").await.status(), 200);
    }
    let bad = server
        .client
        .predict_request(&json!({}))
        .send()
        .await
        .unwrap();
    assert_eq!(bad.status(), 400);
    for path in ["/nothing", "/nothing/else?q=1", "/predict"] {
        server.client.get(path).send().await.unwrap();
    }
    let text = server.client.metrics().await;
    for (labels, count) in [
        (r#"route="/predict",method="POST",code="200""#, 3.0),
        (r#"route="/predict",method="POST",code="400""#, 1.0),
        (r#"route="/predict",method="GET",code="405""#, 1.0),
        (r#"route="unmatched",method="GET",code="404""#, 2.0),
    ] {
        let name = format!("model_server_requests_total{{{labels}}}");
        assert_eq!(sample_value(&text, &name), Some(count), "{name}\n{text}");
    }
    for (kind, count) in [("field", 1.0), ("unknown_path", 2.0), ("wrong_method", 1.0)] {
        let name = format!(r#"model_server_errors_total{{kind="{kind}"}}"#);
        assert_eq!(sample_value(&text, &name), Some(count), "{name}\n{text}");
    }
    assert!(
        !text.contains("nothing"),
        "the client's path must not be a label\n{text}"
    );
    server.stop().await.unwrap();
}

#[tokio::test]
async fn histograms_observe_each_request_and_forward_pass() {
    let server = Server::start(settings("v1")).await;
    for text in ["fine", "a fine film", "not so fine"] {
        server.client.predict(text).await;
    }
    server
        .client
        .predict_request(&json!({}))
        .send()
        .await
        .unwrap();
    let text = server.client.metrics().await;
    let value = |name: &str| {
        sample_value(&text, name).unwrap_or_else(|| panic!("{name} is missing\n{text}"))
    };
    for (name, count) in [
        (
            r#"model_server_request_duration_seconds_count{route="/predict"}"#,
            4.0,
        ),
        (
            r#"model_server_request_duration_seconds_bucket{route="/predict",le="+Inf"}"#,
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
async fn model_info_matches_health_whatever_scraper_accepts() {
    let server = Server::start(settings("v1")).await;
    let (_, health) = server.client.health().await;
    let digest = health["model_digest"].as_str().unwrap();
    let name = format!(
        r#"model_info{{model_name="sentiment",model_version="v1",model_digest="{digest}",engine="rten"}}"#
    );
    // The second is what Prometheus 3 sends.
    for accept in [
        "*/*",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
         application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
         text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    ] {
        let request = server.client.get("/metrics").header(header::ACCEPT, accept);
        let response = request.send().await.unwrap();
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/plain; version=0.0.4; charset=utf-8"
        );
        let text = response.text().await.unwrap();
        assert_eq!(sample_value(&text, &name), Some(1.0), "{text}");
        assert!(!text.contains("# EOF"), "{text}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn client_disconnect_is_counted_but_not_as_error() {
    let mut settings = settings("v2");
    settings.limits.queue_capacity = 80_000.try_into().unwrap();
    settings.limits.max_body_bytes = 1024 * 1024;
    let server = Server::start(settings).await;
    let request = server
        .client
        .predict_request(&slow_predict_body())
        .timeout(Duration::from_millis(250));
    assert!(request.send().await.unwrap_err().is_timeout());
    let disconnects = r#"model_server_requests_total{route="/predict",method="POST",code="499"}"#;
    wait_until("the disconnect is counted", || async {
        sample_value(&server.client.metrics().await, disconnects) == Some(1.0)
    })
    .await;
    let (_, health) = server.client.health().await;
    assert_eq!(
        (&health["request_count"], &health["error_count"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(health["in_flight"], 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn server_timing_header_lists_stages() {
    let server = Server::start(settings("v1")).await;
    for body in [
        json!({"text": "fine"}),
        json!({"texts": ["fine", "not so fine"]}),
    ] {
        let response = server.client.predict_request(&body).send().await.unwrap();
        let stages = response.headers()["server-timing"].to_str().unwrap();
        let times: Vec<(&str, f64)> = stages
            .split(", ")
            .map(|stage| stage.split_once(";dur=").unwrap())
            .map(|(name, time)| (name, time.parse().unwrap()))
            .collect();
        let names: Vec<&str> = times.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["queue", "tokenize", "inference"], "{stages}");
        assert!(times[2].1 > 0.0, "{stages}");
    }
    let bad = server
        .client
        .predict_request(&json!({}))
        .send()
        .await
        .unwrap();
    assert!(bad.headers().get("server-timing").is_none());
    server.stop().await.unwrap();
}
