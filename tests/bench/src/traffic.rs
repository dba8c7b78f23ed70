//! Clients that account for each request, with the clock that Python reads as `time.monotonic_ns()`.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use end_to_end::{RequestRecord, Traffic};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The server or router
    address: SocketAddr,

    /// Bodies of requests to /predict, one a line
    #[arg(long, value_name = "FILE")]
    bodies: PathBuf,

    /// Clients, each with a keep-alive connection
    #[arg(long)]
    connections: usize,

    /// Each client's pause after an answer
    #[arg(long, default_value = "0")]
    pause_ms: f64,

    /// Print `{"ready": true}` after this many requests
    #[arg(long, default_value = "0", value_name = "REQUESTS")]
    ready_after: usize,

    /// Stop after this time; by default at SIGTERM only
    #[arg(long)]
    seconds: Option<f64>,
}

/// Sends requests until it is told to stop, and prints the account: an array of objects with `started` and
/// `took` in nanoseconds, and `version` of a success or `failure`.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let stopped = crate::stop_signal()?;
    let traffic = Traffic::start(
        arguments.address,
        arguments.connections,
        Duration::from_secs_f64(arguments.pause_ms / 1e3),
        crate::read_bodies(&arguments.bodies)?,
    );
    let stop = async {
        traffic.wait_for_requests(arguments.ready_after).await?;
        crate::print(&json!({ "ready": true }))?;
        match arguments.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
            None => std::future::pending().await,
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = stop => ended?,
        () = stopped => (),
    }
    let log = traffic.stop().await;
    let clock = Clock::now();
    crate::print(&log.requests.iter().map(|it| clock.account(it)).collect())
}

/// The same moment by Rust's clock, which hides its value, and by the system's.
struct Clock {
    instant: Instant,
    nanoseconds: i64,
}

impl Clock {
    fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        Self {
            instant: Instant::now(),
            nanoseconds: time.tv_sec * 1_000_000_000 + time.tv_nsec,
        }
    }

    fn account(&self, answer: &RequestRecord) -> Value {
        let ago = self.instant.saturating_duration_since(answer.started);
        let (outcome, text) = match &answer.outcome {
            Ok(version) => ("version", version),
            Err(failure) => ("failure", failure),
        };
        json!({
            "started": i128::from(self.nanoseconds) - ago.as_nanos().cast_signed(),
            "took": answer.duration.as_nanos(),
            outcome: text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn account_places_requests_on_the_system_clock() {
        let started = Instant::now();
        let clock = Clock {
            instant: started + Duration::from_nanos(2_500),
            nanoseconds: 10_000,
        };
        let account = clock.account(&RequestRecord {
            started,
            duration: Duration::from_micros(1),
            outcome: Err("status 500".to_owned()),
        });
        assert_eq!(
            account,
            json!({ "started": 7_500, "took": 1_000, "failure": "status 500" })
        );
    }
}
