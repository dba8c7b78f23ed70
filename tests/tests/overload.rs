//! A server under overload, without a router: requests beyond the queue's capacity are rejected.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{PortBlock, Traffic, get, golden_bodies, program, repository};
use tokio::process::Command;

/// The capacity of the queue, in texts.
const QUEUE_CAPACITY: usize = 16;
/// Clients in the overload: many more than the queue's capacity.
const CLIENTS: usize = 8 * QUEUE_CAPACITY;
const OVERLOAD_DURATION: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn overloaded_server_answers_or_rejects_and_recovers() -> anyhow::Result<()> {
    let ports = PortBlock::reserve()?;
    let address = format!("127.0.0.1:{}", ports.blue());
    let _server = Command::new(program("model-server")?)
        .args(["--model-version=v2", "--grace-seconds=0"])
        .args(["--inference-threads=1", "--max-batch-texts=1"])
        .arg(format!("--port={}", ports.blue()))
        .arg(format!("--queue-capacity={QUEUE_CAPACITY}"))
        .arg(format!(
            "--model-root={}",
            repository().join("models").display()
        ))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let ready = async {
        while get(&address, "/readyz").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while !get(&address, "/readyz").await?.contains("\"ready\"") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), ready)
        .await
        .context("the server is not ready after 30 s")??;

    let traffic = Traffic::start(address.parse()?, CLIENTS, Duration::ZERO, golden_bodies()?);
    let started = Instant::now();
    while started.elapsed() < OVERLOAD_DURATION {
        traffic.wait_for_requests(traffic.count() + CLIENTS).await?;
    }
    let log = traffic.stop().await;
    let failures = log.failures();
    ensure!(
        failures.keys().eq([&"status 429 Too Many Requests"]),
        "only status 429 may reject a request: {failures:?}"
    );
    ensure!(
        log.by_version().contains_key("v2"),
        "no request was answered during the overload"
    );

    // The queue has room for one request per client. So a rejection would mean that old requests still fill it.
    let traffic = Traffic::start(
        address.parse()?,
        QUEUE_CAPACITY,
        Duration::ZERO,
        golden_bodies()?,
    );
    traffic.wait_for_requests(20 * QUEUE_CAPACITY).await?;
    traffic.stop().await.ensure_none_failed()?;
    let health = get(&address, "/health").await?;
    ensure!(health.contains("\"error_count\":0"), "{health}");
    Ok(())
}
