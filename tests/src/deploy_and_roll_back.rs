//! The main promise, tested with each fleet: deployments and rollbacks under load fail no request.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::{Stack, TrafficLog};

/// Deploys v2 and rolls back to v1, twice, under keep-alive load. Returns the record of all requests.
///
/// Fails unless clients sent at least 20,000 requests and none failed. Each request that began after a command
/// returned must be answered by the release that the command made active.
pub async fn deploy_and_roll_back_twice(stack: &Stack) -> anyhow::Result<TrafficLog> {
    const CONNECTIONS: usize = 64;
    const PAUSE: Duration = Duration::from_millis(5);

    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    traffic.wait_for_requests(1_000).await?;
    // Between the return of a command and the start of the next one, only this version may answer.
    let mut periods = Vec::new();
    for _ in 0..2 {
        for (command, version) in [(["deploy", "v2"].as_slice(), "v2"), (&["rollback"], "v1")] {
            let run = stack.expect_exit(0, command).await?;
            traffic.wait_for_requests(traffic.count() + 3_000).await?;
            periods.push((version, run.returned, Instant::now()));
        }
    }
    traffic.wait_for_requests(20_000).await?;
    let log = traffic.stop().await;

    log.ensure_none_failed()?;
    for (version, from, until) in periods {
        log.between(from, until).ensure_answered_only_by(version)?;
    }
    ensure!(
        log.requests.len() >= 20_000,
        "at least 20,000 requests are needed, but only {} were sent",
        log.requests.len()
    );
    Ok(log)
}
