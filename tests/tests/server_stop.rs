//! Model servers that stop one after the other while nginx sends them traffic.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{Bake, Stack};
use serde_json::Value;

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
const RESETS_AT_MOST: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn stopping_servers_under_load_cuts_no_request() -> anyhow::Result<()> {
    let stack = Stack::of_processes("model-server", Bake(Duration::from_secs(2)))?;
    stack.expect(0, &["up"]).await?;
    // Both colors have a promoted release, so each may stand in for the other.
    stack.expect(0, &["deploy", "v2"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(500).await?;
    stop(&stack, "green").await?;
    traffic.reach(traffic.count() + 500).await?;
    stack.expect(0, &["up"]).await?;
    stack.expect(0, &["switch", "blue"]).await?;
    traffic.reach(traffic.count() + 500).await?;
    stop(&stack, "blue").await?;
    traffic.reach(traffic.count() + 500).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    let answered = log.by_version();
    ensure!(
        answered.contains_key("v1") && answered.contains_key("v2"),
        "both answered: {answered:?}"
    );

    // The standby hides failures from clients; the router's log has each server's own answers.
    for port in [stack.ports().green(), stack.ports().blue()] {
        let attempts = attempts(&stack, port)?;
        let well = |it: &&Attempt| it.status == "200";
        let refused = |it: &&Attempt| it.connected == "-";
        ensure!(
            attempts.iter().filter(well).count() > 100,
            "{port} was used"
        );
        ensure!(attempts.iter().any(|it| refused(&it)), "{port} was stopped");
        let cut: Vec<_> = attempts
            .iter()
            .filter(|it| !well(it) && !refused(it))
            .collect();
        // The kernel accepts connections for the server, and resets one that arrives in the microseconds
        // between the server's last accept and the end of listening.
        ensure!(
            cut.len() <= RESETS_AT_MOST,
            "{port} accepted and did not answer: {cut:?}"
        );
    }
    Ok(())
}

async fn stop(stack: &Stack, color: &str) -> anyhow::Result<()> {
    stack.signal(color, "TERM")?;
    stack.until_ended(color).await
}

/// One attempt of the router at one server.
#[derive(Debug)]
struct Attempt {
    status: String,
    /// Seconds until the server had accepted the connection; `-` if it refused.
    connected: String,
}

/// All attempts of the router at the server on this port.
fn attempts(stack: &Stack, port: u16) -> anyhow::Result<Vec<Attempt>> {
    let address = format!("127.0.0.1:{port}");
    let mut attempts = Vec::new();
    for line in fs::read_to_string(stack.path("run/logs/access.log"))?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let parts = |name: &str| {
            let list = line[name].as_str().context("the line lacks a field")?;
            anyhow::Ok(list.split(", ").map(str::to_owned).collect::<Vec<_>>())
        };
        let statuses = parts("upstream_status")?;
        let connected = parts("upstream_connect_time")?;
        for (at, server) in parts("upstream_addr")?.into_iter().enumerate() {
            if server == address {
                attempts.push(Attempt {
                    status: statuses.get(at).cloned().unwrap_or_default(),
                    connected: connected.get(at).cloned().unwrap_or_default(),
                });
            }
        }
    }
    Ok(attempts)
}
