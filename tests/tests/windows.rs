//! Deployments outside of the windows, in which they may not switch.

use std::{fs, time::Duration};

use anyhow::ensure;
use end_to_end::{BakeDuration, Stack};

type Result<T = ()> = anyhow::Result<T>;

const FREEZE: [&str; 2] = ["--set", "windows.freezes=[\"2000-01-01..2999-01-01\"]"];

#[tokio::test(flavor = "multi_thread")]
async fn freeze_refuses_deployments_but_neither_emergencies_nor_rollbacks() -> Result {
    let bake = BakeDuration(Duration::from_secs(1));
    let stack = Stack::with_processes("model-server", bake)?;
    stack.expect_exit(0, &["up"]).await?;
    let refused = stack
        .expect_exit(10, &[&["deploy", "v2"], &FREEZE[..]].concat())
        .await?;
    ensure!(
        refused.stderr.contains("the next one opens Wed 2999-01-02"),
        "{refused:?}"
    );
    ensure!(stack.status().await?["active"] == "blue");

    let emergency = ["--json", "--outside-window", "--reason", "clients wait"];
    let inconclusive = ["--set", "bake.on_inconclusive=promote"];
    let patience = ["--set", "health.stall=30s"];
    let deploy = [
        &["deploy", "v2"],
        &emergency[..],
        &inconclusive,
        &patience,
        &FREEZE,
    ];
    let run = stack.expect_exit(0, &deploy.concat()).await?;
    ensure!(
        run.stdout
            .contains("deploying outside of the windows: clients wait"),
        "{run:?}"
    );
    let history = fs::read_to_string(stack.path("state/history.jsonl"))?;
    ensure!(
        history.contains("\"outside_window\":\"clients wait\""),
        "{history}"
    );
    let report = stack.expect_exit(0, &["report", "--json"]).await?.stdout;
    ensure!(
        report.contains("\"outside_window\":\"clients wait\""),
        "{report}"
    );

    stack
        .expect_exit(0, &[&["rollback"], &FREEZE[..]].concat())
        .await?;
    ensure!(stack.status().await?["active"] == "blue");
    stack.expect_exit(0, &["history", "--verify"]).await?;
    Ok(())
}
