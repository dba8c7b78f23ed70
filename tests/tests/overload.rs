//! A server that receives more than it can answer, without a router.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{PortBlock, Traffic, get, golden_bodies, program, repository};
use tokio::process::Command;

/// The queue's capacity; many times as many clients send at once.
const QUEUE: usize = 16;
const CLIENTS: usize = 8 * QUEUE;
const OVERLOAD: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn overloaded_server_answers_or_rejects_and_recovers() -> anyhow::Result<()> {
    let ports = PortBlock::take()?;
    let address = format!("127.0.0.1:{}", ports.blue());
    let _server = Command::new(program("model-server")?)
        .args(["--model-version=v2", "--grace-seconds=0"])
        .args(["--inference-threads=1", "--max-batch-texts=1"])
        .arg(format!("--port={}", ports.blue()))
        .arg(format!("--queue-capacity={QUEUE}"))
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
        .context("the server does not come up")??;

    let traffic = Traffic::start(address.parse()?, CLIENTS, Duration::ZERO, golden_bodies()?);
    let began = Instant::now();
    while began.elapsed() < OVERLOAD {
        traffic.reach(traffic.count() + CLIENTS).await?;
    }
    let log = traffic.stop().await;
    let failures = log.failures();
    ensure!(
        failures.keys().eq([&"status 429 Too Many Requests"]),
        "nothing else than answers and 429: {failures:?}"
    );
    ensure!(log.by_version().contains_key("v2"), "nobody was answered");

    // As many clients as the queue's capacity are never rejected: nothing was left in the queue.
    let traffic = Traffic::start(address.parse()?, QUEUE, Duration::ZERO, golden_bodies()?);
    traffic.reach(20 * QUEUE).await?;
    traffic.stop().await.ensure_none_failed()?;
    let health = get(&address, "/health").await?;
    ensure!(health.contains("\"error_count\":0"), "{health}");
    Ok(())
}
