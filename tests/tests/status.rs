//! `deployer status --watch`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStdout,
};

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Reads lines until one contains `expected`. Fails after 30 s.
async fn wait_for_line(lines: &mut Lines<BufReader<ChildStdout>>, expected: &str) -> Result {
    let found = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(expected) {
                return Ok(());
            }
        }
        anyhow::bail!("the output ended before a line with {expected:?}")
    };
    tokio::time::timeout(Duration::from_secs(30), found)
        .await
        .with_context(|| format!("no line with {expected:?} within 30 s"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_refreshes_until_stop_signal() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    for (arguments, [before, after]) in [
        (
            &["status", "--watch"][..],
            ["sends all traffic to blue", "sends all traffic to green"],
        ),
        (
            &["status", "--watch", "--json"],
            ["\"active\":\"blue\"", "\"active\":\"green\""],
        ),
    ] {
        stack.expect_exit(0, &["switch", "blue"]).await?;
        let mut status = stack.start_deployer(arguments)?;
        let output = status
            .stdout
            .take()
            .context("standard output is not piped")?;
        let mut lines = BufReader::new(output).lines();
        wait_for_line(&mut lines, before).await?;
        stack.expect_exit(0, &["switch", "green"]).await?;
        wait_for_line(&mut lines, after).await?;
        Stack::signal_deployer(&status, "TERM")?;
        let run = Stack::wait_for_exit(status, arguments).await?;
        ensure!(run.code == 0, "{run:?}");
    }
    Ok(())
}
