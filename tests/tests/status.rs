//! `deployer status --watch`.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{Bake, Stack};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::ChildStdout,
};

const SHORT: Bake = Bake(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Reads until a line contains these words.
async fn until_shown(lines: &mut Lines<BufReader<ChildStdout>>, words: &str) -> Result {
    let shown = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(words) {
                return Ok(());
            }
        }
        anyhow::bail!("it ended before it said {words:?}")
    };
    tokio::time::timeout(Duration::from_secs(30), shown)
        .await
        .with_context(|| format!("it never said {words:?}"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_refreshes_until_stop_signal() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
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
        stack.expect(0, &["switch", "blue"]).await?;
        let mut watching = stack.start_deployer(arguments)?;
        let output = watching.stdout.take().context("it has no output")?;
        let mut lines = BufReader::new(output).lines();
        until_shown(&mut lines, before).await?;
        stack.expect(0, &["switch", "green"]).await?;
        until_shown(&mut lines, after).await?;
        Stack::tell(&watching, "TERM")?;
        let run = Stack::finish(watching, arguments).await?;
        ensure!(run.code == 0, "{run:?}");
    }
    Ok(())
}
