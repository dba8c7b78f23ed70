//! Servers without a model, for load.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::StatusCode,
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::TcpSocket,
    time::{Instant, sleep, sleep_until},
};

/// All connections come at once: one that finds no room in the queue is opened a second later, which would
/// be seen as latency.
const BACKLOG: u32 = 4_096;

/// Serves a handler with no model and nothing around it.
pub(crate) async fn serve_bare_handler() -> anyhow::Result<()> {
    serve(Router::new().route("/predict", post(refuse))).await
}

/// Serves `/predict` with waits of its own, and `/round`, which tells the latencies since it was last asked.
pub(crate) async fn serve_paced(stalls: bool) -> anyhow::Result<()> {
    let pace = Pace {
        stalls,
        round: Mutex::default(),
    };
    let router = Router::new()
        .route("/predict", post(answer))
        .route("/round", get(next_round))
        .with_state(Arc::new(pace));
    serve(router).await
}

/// Serves on a free port, which it prints.
async fn serve(router: Router) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let listener = socket.listen(BACKLOG)?;
    crate::print(&json!({ "port": listener.local_addr()?.port() }))?;
    Ok(axum::serve(listener, router).await?)
}

#[derive(Deserialize)]
struct Request {
    text: String,
}

#[derive(Serialize)]
struct Refusal {
    error: &'static str,
    field: &'static str,
}

/// Parses the body and answers in the words of the model server.
async fn refuse(Json(request): Json<Request>) -> (StatusCode, Json<Refusal>) {
    let refusal = Refusal {
        error: if request.text.trim().is_empty() {
            "text is blank; expected some words"
        } else {
            "this handler refuses every text"
        },
        field: "text",
    };
    (StatusCode::BAD_REQUEST, Json(refusal))
}

/// The shortest wait, and the mean of what comes on top: seconds.
const SHORTEST_WAIT: f64 = 0.05;
const MEAN_BEYOND: f64 = 0.075;
/// From when until when no request begins, in seconds since the first request of the round.
const STALLS: [[f64; 2]; 2] = [[1.0, 1.5], [3.0, 3.5]];

struct Pace {
    stalls: bool,
    round: Mutex<Round>,
}

#[derive(Default)]
struct Round {
    first_asked: Option<Instant>,
    requests: u64,
    /// Milliseconds that each answer took by this server's clock.
    took: Vec<f64>,
}

async fn answer(State(pace): State<Arc<Pace>>) -> StatusCode {
    let asked = Instant::now();
    let (first_asked, number) = {
        let mut round = pace.round.lock().expect("no holder of the lock panics");
        round.requests += 1;
        (*round.first_asked.get_or_insert(asked), round.requests)
    };
    let second = (asked - first_asked).as_secs_f64();
    let stall = STALLS
        .iter()
        .find(|[from, until]| pace.stalls && (*from..*until).contains(&second));
    if let Some([_, until]) = stall {
        sleep_until(first_asked + Duration::from_secs_f64(*until)).await;
    }
    sleep(wait(number)).await;
    let took = asked.elapsed().as_secs_f64() * 1e3;
    let mut round = pace.round.lock().expect("no holder of the lock panics");
    round.took.push(took);
    StatusCode::OK
}

/// Begins a round, and answers with the percentiles of the one before; `null` where there were no requests.
async fn next_round(State(pace): State<Arc<Pace>>) -> Json<Value> {
    let round = std::mem::take(&mut *pace.round.lock().expect("no holder of the lock panics"));
    let mut took = round.took;
    took.sort_by(f64::total_cmp);
    let at = |percent: usize| took.get(took.len() * percent / 100);
    Json(json!({ "p50": at(50), "p90": at(90), "p99": at(99) }))
}

/// Returns the wait of the request with this number: exponentially distributed beyond the shortest wait, so
/// that percentiles lie far apart and a tool that reports the wrong one is found out.
fn wait(number: u64) -> Duration {
    /// A prime number: the steps visit each wait once, in an order that no client has.
    const WAITS: u64 = 1_009;
    const STEP: u64 = 619;

    let share = ((number * STEP % WAITS) as f64 + 0.5) / WAITS as f64;
    Duration::from_secs_f64(SHORTEST_WAIT - MEAN_BEYOND * (1.0 - share).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_exponentially_distributed_in_any_thousand_requests() {
        for first in [0, 77_777] {
            let mut waits: Vec<f64> = (first..first + 1_009)
                .map(|number| wait(number).as_secs_f64())
                .collect();
            waits.sort_by(f64::total_cmp);
            for (share, at) in [(0.5, 504), (0.9, 908), (0.99, 998)] {
                let expected = SHORTEST_WAIT - MEAN_BEYOND * f64::ln(1.0 - share);
                let off = waits[at] / expected - 1.0;
                assert!(off.abs() < 0.01, "{share}: {} {expected}", waits[at]);
            }
        }
    }
}
