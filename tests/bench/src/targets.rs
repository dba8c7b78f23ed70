//! Servers without a model, as targets of load generators.

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

/// Room for all connections, which a client opens at once. The kernel retries a connection that does not fit after a
/// second, and that wait would count as latency.
const BACKLOG: u32 = 4_096;

/// Serves a handler that rejects every text, without a model and without middleware.
pub(crate) async fn serve_bare_handler() -> anyhow::Result<()> {
    serve(Router::new().route("/predict", post(reject))).await
}

/// Serves `/predict` with random waits. `/round` returns the latency percentiles since its previous call.
pub(crate) async fn serve_paced(stalls: bool) -> anyhow::Result<()> {
    let state = PacedState {
        stalls,
        round: Mutex::default(),
    };
    let router = Router::new()
        .route("/predict", post(respond_after_wait))
        .route("/round", get(next_round))
        .with_state(Arc::new(state));
    serve(router).await
}

/// Serves on a free loopback port, and prints the port.
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
struct Rejection {
    error: &'static str,
    field: &'static str,
}

/// Parses the body, and responds with the model server's message for a blank text.
async fn reject(Json(request): Json<Request>) -> (StatusCode, Json<Rejection>) {
    let rejection = Rejection {
        error: if request.text.trim().is_empty() {
            "text is blank; expected some words"
        } else {
            "this handler rejects every text"
        },
        field: "text",
    };
    (StatusCode::BAD_REQUEST, Json(rejection))
}

/// The shortest wait, and the mean of the exponentially distributed time beyond it, in seconds.
const SHORTEST_WAIT: f64 = 0.05;
const MEAN_BEYOND: f64 = 0.075;
/// The times during which arriving requests are delayed, in seconds since the first request of the round.
const STALLS: [[f64; 2]; 2] = [[1.0, 1.5], [3.0, 3.5]];

struct PacedState {
    stalls: bool,
    round: Mutex<Round>,
}

#[derive(Default)]
struct Round {
    first_arrival: Option<Instant>,
    requests: u64,
    /// The latency of each response by this server's clock, in milliseconds.
    latencies: Vec<f64>,
}

async fn respond_after_wait(State(state): State<Arc<PacedState>>) -> StatusCode {
    let arrival = Instant::now();
    let (first_arrival, number) = {
        let mut round = state.round.lock().expect("no holder of the lock panics");
        round.requests += 1;
        (*round.first_arrival.get_or_insert(arrival), round.requests)
    };
    let seconds = (arrival - first_arrival).as_secs_f64();
    let stall = STALLS
        .iter()
        .find(|[from, until]| state.stalls && (*from..*until).contains(&seconds));
    if let Some([_, until]) = stall {
        sleep_until(first_arrival + Duration::from_secs_f64(*until)).await;
    }
    sleep(wait(number)).await;
    let latency = arrival.elapsed().as_secs_f64() * 1e3;
    let mut round = state.round.lock().expect("no holder of the lock panics");
    round.latencies.push(latency);
    StatusCode::OK
}

/// Begins a round, and returns the percentiles of the previous round; `null` if it had no requests.
async fn next_round(State(state): State<Arc<PacedState>>) -> Json<Value> {
    let round = std::mem::take(&mut *state.round.lock().expect("no holder of the lock panics"));
    let mut latencies = round.latencies;
    latencies.sort_by(f64::total_cmp);
    let at = |percent: usize| latencies.get(latencies.len() * percent / 100);
    Json(json!({ "p50": at(50), "p90": at(90), "p99": at(99) }))
}

/// Returns the wait of the request with this number.
///
/// Beyond the shortest wait it is exponentially distributed. So percentiles lie far apart, and a tool that reports a
/// wrong percentile is detected.
fn wait(number: u64) -> Duration {
    /// A prime number, so that the steps visit each wait once, in an order that no client has.
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
