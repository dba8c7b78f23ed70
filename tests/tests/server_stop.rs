//! A model server that is told to stop while nginx sends it traffic.

use std::time::Duration;

use end_to_end::{Stack, Watch};

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);

#[tokio::test(flavor = "multi_thread")]
async fn stopping_under_load_fails_no_request() -> anyhow::Result<()> {
    let stack = Stack::of_processes("model-server", Watch(Duration::from_secs(2)))?;
    stack.expect(0, &["up"]).await?;
    // Both colors hold a release that was promoted: each may stand in for the other.
    stack.expect(0, &["deploy", "v2"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(500).await?;
    stack.signal("green", "TERM")?;
    stack.until_ended("green").await?;
    traffic.reach(traffic.count() + 1000).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    let answered = log.by_version();
    anyhow::ensure!(
        answered.contains_key("v1") && answered.contains_key("v2"),
        "both answered: {answered:?}"
    );
    Ok(())
}
