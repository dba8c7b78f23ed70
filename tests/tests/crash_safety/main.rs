//! Deployers killed by SIGKILL, with real nginx and real servers under load.
//!
//! `crates/deployer/src/commands/crash_safety` tests every kill point and every pair of them, in one process and on
//! virtual time. The tests here repeat a few of these kills; [`slow`] repeats all single ones.

mod slow;

use std::time::Duration;

use anyhow::ensure;
use end_to_end::{Action, BakeDuration, Stack, Torture};

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// At least one kill for each kind of state: a process without a record, a flag, the journal, the history, and a
/// pending move.
const KILLS: [(Action, &str); 8] = [
    (Action::Deploy, "after starting green"),
    (Action::Deploy, "after flag green on"),
    (Action::DeployAndRefuse, "before journal refused"),
    (Action::DeployAndRollBack, "after flag green off"),
    (Action::Switch, "after flag green on"),
    (Action::Rollback, "before flag green off"),
    (Action::Recover, "after flag green off"),
    (Action::FailOver, "after flag green off"),
];

#[tokio::test(flavor = "multi_thread")]
async fn killed_deployer_leaves_traffic_on_one_healthy_color() -> Result {
    let mut torture = Torture::start().await?;
    for (action, point) in KILLS {
        torture.kill_at(action, point).await?;
    }
    let (_, log) = torture.stop().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployer_under_nohup_survives_its_terminal() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let deployer = stack.deployer_command(&["deploy", "v2", "--bake", "4s"])?;
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
    stack.wait_for_phase("switched").await?;
    Stack::signal_deployer(&child, "HUP")?;
    let run = Stack::wait_for_exit(child, &["deploy", "v2"]).await?;
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}
