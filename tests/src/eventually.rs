//! Waits for a condition.

use std::time::Duration;

use anyhow::Context as _;

/// Bounds each wait for something that takes milliseconds on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `condition` holds. Fails after 30 s, and names `what` then.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) -> anyhow::Result<()> {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, holds)
        .await
        .with_context(|| format!("not within {PATIENCE:?}: {what}"))
}
