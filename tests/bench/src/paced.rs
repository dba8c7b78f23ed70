//! A server whose latencies do not depend on who asks, and that knows what they were.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use tokio::{
    net::TcpSocket,
    runtime,
    time::{Instant, sleep, sleep_until},
};

/// The shortest wait, and by how much more it is waited in the mean: seconds.
pub(crate) const LEAST: f64 = 0.05;
pub(crate) const BEYOND: f64 = 0.075;
/// When it begins with no request until when, since it was first asked: seconds.
pub(crate) const STALLS: [[f64; 2]; 2] = [[1.0, 1.5], [3.0, 3.5]];

/// All connections come at once: one that finds no room in the queue is opened a second later, which would
/// be seen as latency.
const BACKLOG: u32 = 4_096;

/// The server. It ends with the program.
pub(crate) struct Paced {
    pub(crate) address: SocketAddr,
    state: Arc<Pace>,
}

struct Pace {
    stalls: bool,
    asked: AtomicU64,
    round: Mutex<Round>,
}

/// What happened since [`Paced::begin`].
#[derive(Default)]
struct Round {
    first_asked: Option<Instant>,
    /// How long each answer took, by the server's own clock, in milliseconds.
    took: Vec<f64>,
}

impl Paced {
    /// One that stalls twice in each round, or does not.
    pub(crate) fn start(stalls: bool) -> anyhow::Result<Self> {
        // As a process of its own would have it: the generator works in this program, too, and must not keep
        // its server from working.
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = TcpSocket::new_v4()?;
            socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
            socket.listen(BACKLOG)?
        };
        let address = listener.local_addr()?;
        let state = Arc::new(Pace {
            stalls,
            asked: AtomicU64::new(0),
            round: Mutex::default(),
        });
        let router = Router::new()
            .route("/predict", post(answer))
            .with_state(Arc::clone(&state));
        thread::spawn(move || runtime.block_on(async { axum::serve(listener, router).await }));
        Ok(Self { address, state })
    }

    /// Begins a round.
    pub(crate) fn begin(&self) {
        *self.state.round.lock().expect("nobody panics") = Round::default();
    }

    /// The p50, p90 and p99 of the round in milliseconds, by its own clock.
    pub(crate) fn took(&self) -> Option<[f64; 3]> {
        let took = &mut self.state.round.lock().expect("nobody panics").took;
        took.sort_by(f64::total_cmp);
        let at = |percent: usize| took.get(took.len() * percent / 100).copied();
        Some([at(50)?, at(90)?, at(99)?])
    }
}

async fn answer(State(pace): State<Arc<Pace>>) -> StatusCode {
    let asked = Instant::now();
    let first_asked = {
        let mut round = pace.round.lock().expect("nobody panics");
        *round.first_asked.get_or_insert(asked)
    };
    if pace.stalls {
        let second = (asked - first_asked).as_secs_f64();
        let stall = STALLS
            .iter()
            .find(|[from, to]| (*from..*to).contains(&second));
        if let Some([_, until]) = stall {
            sleep_until(first_asked + Duration::from_secs_f64(*until)).await;
        }
    }
    sleep(wait(pace.asked.fetch_add(1, Ordering::Relaxed))).await;
    let took = asked.elapsed().as_secs_f64() * 1e3;
    pace.round.lock().expect("nobody panics").took.push(took);
    StatusCode::OK
}

/// How long the request with this number waits: exponentially distributed beyond the shortest wait, so that
/// each percentile is far from the next one and a tool that takes the wrong one is found out.
fn wait(number: u64) -> Duration {
    /// A prime number, so that steps visit all of so many waits, in no order that a client has.
    const DIFFERENT: u64 = 1_009;
    const STEP: u64 = 619;

    let share = ((number * STEP % DIFFERENT) as f64 + 0.5) / DIFFERENT as f64;
    Duration::from_secs_f64(LEAST - BEYOND * (1.0 - share).ln())
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
                let expected = LEAST - BEYOND * f64::ln(1.0 - share);
                let off = waits[at] / expected - 1.0;
                assert!(off.abs() < 0.01, "{share}: {} {expected}", waits[at]);
            }
        }
    }
}
