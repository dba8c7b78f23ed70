//! Clients that record each request, with times of the clock that Python reads by `time.monotonic_ns()`.

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
    /// Address of the server or router
    address: SocketAddr,

    /// File with the bodies of requests to /predict, one per line
    #[arg(long, value_name = "FILE")]
    bodies: PathBuf,

    /// Number of clients, each with one keep-alive connection
    #[arg(long)]
    connections: usize,

    /// Pause of each client after a response, in milliseconds
    #[arg(long, default_value = "0")]
    pause_ms: f64,

    /// Print `{"ready": true}` after this many requests
    #[arg(long, default_value = "0", value_name = "REQUESTS")]
    ready_after: usize,

    /// Stop after this many seconds; without it, only at SIGTERM
    #[arg(long)]
    seconds: Option<f64>,
}

/// Sends requests until the stop signal or the time limit, and prints a record of each request.
///
/// The output is an array of objects. `started` and `took` are in nanoseconds. A successful request has `version`, a
/// failed one has `failure`.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let stop_signal = crate::stop_signal()?;
    let traffic = Traffic::start(
        arguments.address,
        arguments.connections,
        Duration::from_secs_f64(arguments.pause_ms / 1e3),
        crate::read_bodies(&arguments.bodies)?,
    );
    let time_limit = async {
        traffic.wait_for_requests(arguments.ready_after).await?;
        crate::print(&json!({ "ready": true }))?;
        match arguments.seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs_f64(seconds)).await,
            None => std::future::pending().await,
        }
        anyhow::Ok(())
    };
    tokio::select! {
        result = time_limit => result?,
        () = stop_signal => (),
    }
    let log = traffic.stop().await;
    let clock = Clock::now();
    crate::print(&log.requests.iter().map(|it| clock.to_json(it)).collect())
}

/// One moment on two clocks: as an `Instant`, whose value is hidden, and as nanoseconds of the monotonic clock.
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

    /// Returns the record of a request as JSON.
    fn to_json(&self, request: &RequestRecord) -> Value {
        let ago = self.instant.saturating_duration_since(request.started);
        let (outcome, text) = match &request.outcome {
            Ok(version) => ("version", version),
            Err(failure) => ("failure", failure),
        };
        json!({
            "started": i128::from(self.nanoseconds) - ago.as_nanos().cast_signed(),
            "took": request.duration.as_nanos(),
            outcome: text,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_times_are_converted_to_the_monotonic_clock() {
        let started = Instant::now();
        let clock = Clock {
            instant: started + Duration::from_nanos(2_500),
            nanoseconds: 10_000,
        };
        let record = clock.to_json(&RequestRecord {
            started,
            duration: Duration::from_micros(1),
            outcome: Err("status 500".to_owned()),
        });
        assert_eq!(
            record,
            json!({ "started": 7_500, "took": 1_000, "failure": "status 500" })
        );
    }
}
