//! The generator against servers whose latencies are known.

use axum::{Router, http::StatusCode, routing::post};
use tokio::net::TcpListener;

use super::*;

/// A server of its own, which ends with the test's runtime; its URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/predict", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn example() -> [Example; 1] {
    [Example {
        body: "{}".to_owned(),
        expect: None,
    }]
}

fn plan() -> LoadPlan {
    LoadPlan {
        concurrency: 8,
        duration: Duration::from_secs(2),
        rate: None,
        timeout: Duration::from_secs(5),
    }
}

/// Answers after 20 ms, one in ten after 80 ms and one in fifty after 200 ms.
async fn known() -> StatusCode {
    static ASKED: AtomicU64 = AtomicU64::new(0);

    let number = ASKED.fetch_add(1, Ordering::Relaxed);
    let milliseconds = match number % 50 {
        0 => 200,
        number if number.is_multiple_of(10) => 80,
        _ => 20,
    };
    sleep(Duration::from_millis(milliseconds)).await;
    StatusCode::OK
}

/// The share by which a percentile differs from what it must be.
fn off(load: &Load, quantile: f64, milliseconds: f64) -> f64 {
    (load.latencies.quantile(quantile).as_secs_f64() * 1000.0 / milliseconds - 1.0).abs()
}

#[tokio::test]
async fn the_percentiles_of_a_known_distribution_are_found() {
    let url = serve(Router::new().route("/predict", post(known))).await;
    let plan = LoadPlan {
        concurrency: 50,
        rate: Some(1000.0),
        duration: Duration::from_secs(4),
        ..plan()
    };
    let load = generate(&url, &example(), None, plan).await.unwrap();
    assert!(load.errors.is_empty(), "{:?}", load.errors);
    assert_eq!(load.tally.requests, 4000);
    for (quantile, milliseconds) in [(0.5, 21.0), (0.95, 81.0), (0.995, 201.0)] {
        let seen = load.latencies.quantile(quantile);
        assert!(
            off(&load, quantile, milliseconds) < 0.1,
            "{quantile}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_is_stuck_is_late_for_every_request_that_was_due() {
    // It answers at once, but for the first request, during which everybody waits.
    let gate = Arc::new(tokio::sync::RwLock::new(()));
    let held = Arc::clone(&gate).write_owned().await;
    let answer = move || async move {
        drop(gate.read().await);
        StatusCode::OK
    };
    let url = serve(Router::new().route("/predict", post(answer))).await;
    let plan = LoadPlan {
        concurrency: 4,
        rate: Some(100.0),
        ..plan()
    };
    let opens = async {
        sleep(Duration::from_secs(1)).await;
        drop(held);
    };
    let examples = example();
    let (load, ()) = tokio::join!(generate(&url, &examples, None, plan), opens);
    let load = load.unwrap();
    assert_eq!(load.tally.requests, 200);
    // Due at 0, 10, 20 ms and so on, all answered after a second: half of them are late.
    let p25 = load.latencies.quantile(0.25);
    assert!(p25 < Duration::from_millis(100), "{p25:?}");
    let p75 = load.latencies.quantile(0.75).as_millis();
    assert!((400..600).contains(&p75), "{p75}");
}

#[tokio::test]
async fn failures_are_counted_by_their_kind() {
    static ASKED: AtomicU64 = AtomicU64::new(0);
    let answer = || async {
        match ASKED.fetch_add(1, Ordering::Relaxed) % 4 {
            0 => StatusCode::TOO_MANY_REQUESTS,
            1 => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::OK,
        }
    };
    let url = serve(Router::new().route("/predict", post(answer))).await;
    let plan = LoadPlan {
        duration: Duration::from_millis(300),
        ..plan()
    };
    let load = generate(&url, &example(), None, plan).await.unwrap();
    let kinds: Vec<&str> = load.errors.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["status 429", "status 500"]);
    let rate = load.tally.error_rate();
    assert!((rate - 0.5).abs() < 0.1, "{rate}");
    assert_eq!(
        load.latencies.count(),
        load.tally.requests - load.tally.failed
    );
}

#[tokio::test]
async fn a_server_that_never_answers_ends_the_load_in_time() {
    let url =
        serve(Router::new().route("/predict", post(std::future::pending::<StatusCode>))).await;
    let plan = LoadPlan {
        duration: Duration::from_millis(200),
        timeout: Duration::from_millis(300),
        ..plan()
    };
    let began = Instant::now();
    let load = generate(&url, &example(), None, plan).await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(load.errors.keys().collect::<Vec<_>>(), ["timed out"]);
    assert_eq!(load.tally.failed, load.tally.requests);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_no_reason_to_spin() {
    let plan = LoadPlan {
        duration: Duration::from_millis(300),
        ..plan()
    };
    let load = generate("http://127.0.0.1:1/predict", &example(), None, plan)
        .await
        .unwrap();
    assert_eq!(
        load.errors.keys().collect::<Vec<_>>(),
        ["connection refused"]
    );
    assert!(load.tally.requests <= 8 * 7, "{}", load.tally.requests);
}

#[tokio::test]
async fn load_is_made_over_plain_http_alone() {
    let error = generate("https://127.0.0.1:1/", &example(), None, plan())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("plain http://"), "{error}");
}
