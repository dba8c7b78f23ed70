//! Model servers are stopped, one after the other, while nginx sends them traffic.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack};
use serde_json::Value;

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
/// See the end of the test.
const MAX_RESETS: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn stopping_servers_under_load_cuts_no_request() -> anyhow::Result<()> {
    let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(2)))?;
    stack.expect_exit(0, &["up"]).await?;
    // Both colors hold a promoted release, so each is a fit standby of the other.
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    traffic.wait_for_requests(500).await?;
    stop_server(&stack, "green").await?;
    traffic.wait_for_requests(traffic.count() + 500).await?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["switch", "blue"]).await?;
    traffic.wait_for_requests(traffic.count() + 500).await?;
    stop_server(&stack, "blue").await?;
    traffic.wait_for_requests(traffic.count() + 500).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    let versions = log.by_version();
    ensure!(
        versions.contains_key("v1") && versions.contains_key("v2"),
        "both versions must answer, but only these did: {versions:?}"
    );

    // The standby hides a failed attempt from clients, but the access log has the status of each attempt.
    for port in [stack.ports().green(), stack.ports().blue()] {
        let attempts = attempts(&stack, port)?;
        ensure!(
            attempts.iter().filter(|it| it.status == "200").count() > 100,
            "the server on port {port} answered at most 100 requests"
        );
        ensure!(
            attempts.iter().any(Attempt::is_refused),
            "no attempt was refused, so the server on port {port} did not stop"
        );
        let cut: Vec<_> = attempts.iter().filter(|it| it.is_cut()).collect();
        // The kernel accepts connections for the server, and resets one that arrives in the microseconds
        // between the server's last accept and the end of listening.
        ensure!(
            cut.len() <= MAX_RESETS,
            "the server on port {port} accepted these and did not answer: {cut:?}"
        );
    }
    Ok(())
}

async fn stop_server(stack: &Stack, color: &str) -> anyhow::Result<()> {
    stack.signal_service(color, "TERM")?;
    stack.wait_until_exited(color).await
}

/// One attempt of the router to get a response from a server.
#[derive(Debug)]
struct Attempt {
    /// 502 or 504 if the router got no response; `-` also if the client left before that.
    status: String,
    /// Seconds until the connection was established; `-` if the server refused it.
    connected: String,
    /// What the client got; 499 if it left. The deployer leaves its own request when a bake ends.
    client_status: u64,
}

impl Attempt {
    fn is_refused(&self) -> bool {
        self.connected == "-"
    }

    /// Whether the server accepted the connection, and did not respond. A server that starts again responds with 503.
    fn is_cut(&self) -> bool {
        !self.is_refused()
            && self.client_status != 499
            && matches!(self.status.as_str(), "-" | "502" | "504")
    }
}

/// Returns the router's attempts on the server on this port, from the access log.
fn attempts(stack: &Stack, port: u16) -> anyhow::Result<Vec<Attempt>> {
    let address = format!("127.0.0.1:{port}");
    let mut attempts = Vec::new();
    for line in fs::read_to_string(stack.path("run/logs/access.log"))?.lines() {
        let line: Value = serde_json::from_str(line)?;
        let parts = |name: &str| {
            let list = line[name]
                .as_str()
                .with_context(|| format!("a line of the access log has no {name}"))?;
            anyhow::Ok(list.split(", ").map(str::to_owned).collect::<Vec<_>>())
        };
        let statuses = parts("upstream_status")?;
        let connected = parts("upstream_connect_time")?;
        let client_status = line["status"]
            .as_u64()
            .context("a line of the access log has no status")?;
        for (at, server) in parts("upstream_addr")?.into_iter().enumerate() {
            if server == address {
                attempts.push(Attempt {
                    status: statuses.get(at).cloned().unwrap_or_default(),
                    connected: connected.get(at).cloned().unwrap_or_default(),
                    client_status,
                });
            }
        }
    }
    Ok(attempts)
}
