//! The load generator against servers with known latencies.

use axum::{Router, http::StatusCode, routing::post};
use tokio::net::TcpListener;

use super::*;

/// Starts a server that ends with the test's runtime. Returns its URL.
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

fn json() -> Answers {
    let probe = crate::config::load(None, &[]).unwrap().probe;
    Answers {
        kind: probe.kind,
        stream: probe.stream,
    }
}

fn plan() -> LoadPlan {
    LoadPlan {
        concurrency: 8,
        duration: Duration::from_secs(2),
        rate: None,
        timeout: Duration::from_secs(5),
    }
}

/// The known distribution: of 500 requests, how many are answered after how many milliseconds.
const DELAYS: [(u64, u64); 4] = [(400, 200), (75, 250), (24, 400), (1, 700)];

/// Answers a request after its delay.
async fn answer_late(received: Arc<AtomicU64>) -> StatusCode {
    // Steps of a prime number visit all 500 requests in an order that matches no client.
    let mut number = received.fetch_add(1, Ordering::Relaxed) * 199 % 500;
    let mut delay = Duration::ZERO;
    for (count, milliseconds) in DELAYS {
        delay = Duration::from_millis(milliseconds);
        if number < count {
            break;
        }
        number -= count;
    }
    sleep(delay).await;
    StatusCode::OK
}

/// Runs on virtual time, which passes only while server and generator wait. A busy machine changes nothing.
async fn assert_known_percentiles_are_measured(rate: Option<f64>) {
    let received = Arc::new(AtomicU64::new(0));
    let answer = move || answer_late(Arc::clone(&received));
    let url = serve(Router::new().route("/predict", post(answer))).await;
    let plan = LoadPlan {
        concurrency: 90,
        rate,
        duration: Duration::from_secs(4),
        ..plan()
    };
    let load = generate(&url, &example(), HeaderMap::new(), plan, json())
        .await
        .unwrap();
    assert!(load.errors.is_empty(), "{:?}", load.errors);
    assert!(load.tally.requests >= 1_200, "{:?}", load.tally);
    let measured = [(0.5, 200.0), (0.9, 250.0), (0.99, 400.0), (0.999, 700.0)].map(
        |(quantile, milliseconds)| {
            let measured = load.latencies.quantile(quantile).as_secs_f64() * 1e3;
            (quantile, measured, measured / milliseconds - 1.0)
        },
    );
    assert!(
        measured.iter().all(|(.., error)| error.abs() < 0.02),
        "{measured:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn closed_loop_measures_known_percentiles() {
    assert_known_percentiles_are_measured(None).await;
}

#[tokio::test(start_paused = true)]
async fn open_loop_measures_known_percentiles() {
    assert_known_percentiles_are_measured(Some(300.0)).await;
}

#[tokio::test]
async fn open_loop_counts_every_due_request_when_server_freezes() {
    let url =
        serve(Router::new().route("/predict", post(std::future::pending::<StatusCode>))).await;
    let plan = LoadPlan {
        concurrency: 4,
        duration: Duration::from_millis(500),
        rate: Some(200.0),
        timeout: Duration::from_millis(400),
    };
    let began = Instant::now();
    let load = generate(&url, &example(), HeaderMap::new(), plan, json())
        .await
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        began.elapsed()
    );
    assert_eq!((load.tally.requests, load.tally.failed), (100, 100));
    assert!(load.latencies.quantile(0.01) >= plan.timeout);
    assert!(load.errors.contains_key(NEVER_SENT), "{:?}", load.errors);
}

#[tokio::test]
async fn late_answer_does_not_lower_throughput() {
    static RECEIVED: AtomicU64 = AtomicU64::new(0);
    let answer = || async {
        let late = RECEIVED.fetch_add(1, Ordering::Relaxed) == 10;
        sleep(Duration::from_millis(if late { 2_000 } else { 10 })).await;
        StatusCode::OK
    };
    let url = serve(Router::new().route("/predict", post(answer))).await;
    let plan = LoadPlan {
        duration: Duration::from_millis(500),
        ..plan()
    };
    let load = generate(&url, &example(), HeaderMap::new(), plan, json())
        .await
        .unwrap();
    let answered = (load.tally.requests - load.tally.failed) as f64;
    // The throughput excludes the late answer and requests in flight at the end.
    let rate = load.throughput() * 0.5;
    assert!(
        (answered - 9.0..answered).contains(&rate),
        "{rate} of {answered}"
    );
}

#[tokio::test]
async fn open_loop_latency_counts_from_due_time() {
    // The server answers nothing for 1 s, and then every waiting request at once.
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
    let release = async {
        sleep(Duration::from_secs(1)).await;
        drop(held);
    };
    let examples = example();
    let (load, ()) = tokio::join!(
        generate(&url, &examples, HeaderMap::new(), plan, json()),
        release
    );
    let load = load.unwrap();
    assert_eq!(load.tally.requests, 200);
    // The requests are due at 0, 10, 20 ms, and so on. Those due in the first second are late: half of them.
    let p25 = load.latencies.quantile(0.25);
    assert!(p25 < Duration::from_millis(100), "{p25:?}");
    let p75 = load.latencies.quantile(0.75).as_millis();
    assert!((400..600).contains(&p75), "{p75}");
}

#[tokio::test]
async fn load_failures_are_counted_by_kind() {
    static RECEIVED: AtomicU64 = AtomicU64::new(0);
    let answer = || async {
        match RECEIVED.fetch_add(1, Ordering::Relaxed) % 4 {
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
    let load = generate(&url, &example(), HeaderMap::new(), plan, json())
        .await
        .unwrap();
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
async fn load_ends_in_time_when_server_never_answers() {
    let url =
        serve(Router::new().route("/predict", post(std::future::pending::<StatusCode>))).await;
    let plan = LoadPlan {
        duration: Duration::from_millis(200),
        timeout: Duration::from_millis(300),
        ..plan()
    };
    let began = Instant::now();
    let load = generate(&url, &example(), HeaderMap::new(), plan, json())
        .await
        .unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(load.errors.keys().collect::<Vec<_>>(), ["timed out"]);
    assert_eq!(load.tally.failed, load.tally.requests);
    assert!(load.latencies.quantile(0.5) >= plan.timeout);
}

#[tokio::test]
async fn load_backs_off_when_connections_are_refused() {
    let plan = LoadPlan {
        duration: Duration::from_millis(300),
        ..plan()
    };
    let load = generate(
        "http://127.0.0.1:1/predict",
        &example(),
        HeaderMap::new(),
        plan,
        json(),
    )
    .await
    .unwrap();
    assert_eq!(
        load.errors.keys().collect::<Vec<_>>(),
        ["connection refused"]
    );
    assert!(load.tally.requests <= 8 * 7, "{}", load.tally.requests);
}

#[tokio::test]
async fn load_refuses_https() {
    let error = generate(
        "https://127.0.0.1:1/",
        &example(),
        HeaderMap::new(),
        plan(),
        json(),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("plain http://"), "{error}");
}
