//! The main promise, for any fleet: releases replace each other under load without a failed request.

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::{Log, Stack};

/// Deploys v2 and rolls back, twice, under keep-alive load. Returns the record of all requests.
///
/// Fails unless there were at least 20,000 requests, none failed, and each one that began after a command was
/// answered by the release that the command made active.
pub async fn there_and_back_twice(stack: &Stack) -> anyhow::Result<Log> {
    const CONNECTIONS: usize = 64;
    const PAUSE: Duration = Duration::from_millis(5);

    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(1_000).await?;
    // Between the end of one command and the start of the next, only this version may answer.
    let mut reigns = Vec::new();
    for _ in 0..2 {
        for (command, version) in [(["deploy", "v2"].as_slice(), "v2"), (&["rollback"], "v1")] {
            let run = stack.expect(0, command).await?;
            traffic.reach(traffic.count() + 3_000).await?;
            reigns.push((version, run.returned, Instant::now()));
        }
    }
    traffic.reach(20_000).await?;
    let log = traffic.stop().await;

    log.ensure_none_failed()?;
    for (version, from, until) in reigns {
        log.between(from, until).ensure_answered_by(version)?;
    }
    ensure!(
        log.answers.len() >= 20_000,
        "only {} requests",
        log.answers.len()
    );
    Ok(log)
}
