//! Runs the deployer's load generator against one server.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use axum::http::HeaderMap;
use deployer::{adapters::load::generate, evidence::load::LoadPlan, examples::Example};
use serde_json::json;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the server
    address: SocketAddr,

    /// File with the bodies of requests to /predict, one per line
    #[arg(long, value_name = "FILE")]
    bodies: PathBuf,

    /// Number of connections, each with one request at a time
    #[arg(long)]
    connections: usize,

    /// Seconds for which requests are sent
    #[arg(long)]
    seconds: f64,

    /// Requests per second (open loop); without it, each connection sends the next request after a response (closed
    /// loop)
    #[arg(long)]
    rate: Option<f64>,

    /// Correct latencies for coordinated omission, as wrk does
    #[arg(long)]
    correct: bool,
}

/// Sends requests, and prints a sample in the format that `load.py` describes.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let bodies = crate::read_bodies(&arguments.bodies)?;
    let examples: Vec<Example> = bodies
        .into_iter()
        .map(|body| Example { body, expect: None })
        .collect();
    let plan = LoadPlan {
        concurrency: arguments.connections,
        duration: Duration::from_secs_f64(arguments.seconds),
        rate: arguments.rate,
        timeout: Duration::from_secs(20),
    };
    let url = format!("http://{}/predict", arguments.address);
    let load = generate(&url, &examples, HeaderMap::new(), plan).await?;
    let per_second = load.tally.requests as f64 / load.elapsed.as_secs_f64();
    let latencies = if arguments.correct {
        // Like wrk, this uses the mean interval between the requests of a connection.
        let interval = plan.concurrency as f64 / per_second.max(1.0);
        load.latencies.corrected(Duration::from_secs_f64(interval))
    } else {
        load.latencies.clone()
    };
    let milliseconds = |at| latencies.quantile(at).as_secs_f64() * 1e3;
    crate::print(&json!({
        "per_second": per_second,
        "succeeded_per_second": load.throughput(),
        "p50": milliseconds(0.5),
        "p90": milliseconds(0.9),
        "p99": milliseconds(0.99),
        "failed": load.tally.failed,
        "errors": load.errors,
        // By Little's law: the mean number of connections that wait for a response.
        "waiting": per_second * load.latencies.mean().as_secs_f64(),
    }))
}
