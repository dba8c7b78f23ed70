//! Killed deployers, as processes and under load.
//!
//! Every kill point and every pair of them is tested in the deployer's own process, on virtual time
//! (`crates/deployer/src/commands/crash_safety`). A few tests here show the same with real nginx, real servers,
//! and SIGKILL; [`slow`] has the others.

mod slow;

use std::time::Duration;

use anyhow::ensure;
use end_to_end::{Action, Bake, Stack, Torture};

const SHORT: Bake = Bake(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// At least one of each kind: a started process without a record, flags, journal, history, and pending move.
const KILLS: [(Action, &str); 8] = [
    (Action::Deploy, "after starting green"),
    (Action::Deploy, "after flag green on"),
    (Action::Refuse, "before journal refused"),
    (Action::TakeBack, "after flag green off"),
    (Action::Switch, "after flag green on"),
    (Action::Rollback, "before flag green off"),
    (Action::Recover, "after flag green off"),
    (Action::FailOver, "after flag green off"),
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_deployer_leaves_traffic_on_one_healthy_color() -> Result {
    let mut torture = Torture::begin().await?;
    for (action, point) in KILLS {
        torture.kill_at(action, point).await?;
    }
    let (_, log) = torture.end().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployer_under_nohup_survives_its_terminal() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let deployer = stack.command(&["deploy", "v2", "--bake", "4s"])?;
    let deployer = deployer.as_std();
    let child = tokio::process::Command::new("nohup")
        .arg(deployer.get_program())
        .args(deployer.get_args())
        .envs(
            deployer
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(stack.path("."))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    stack.await_phase("switched").await?;
    Stack::tell(&child, "HUP")?;
    let run = Stack::finish(child, &["deploy", "v2"]).await?;
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}
