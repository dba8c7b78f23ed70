//! Deployers killed at every kill point and at random moments, with real nginx and real servers under load.

use std::time::Duration;

use anyhow::ensure;
use end_to_end::{Action, Stack, Torture, Traffic};

use super::{Result, SHORT_BAKE};

#[tokio::test(flavor = "multi_thread")]
async fn deployer_killed_at_any_step_leaves_one_healthy_color() -> Result {
    let mut torture = Torture::start().await?;
    let points = torture.kill_at_every_point(Action::Deploy, &[]).await?;
    ensure!(points >= 20, "{points}");
    let (phases_found, log) = torture.stop().await;
    ensure!(phases_found.len() >= 6, "{phases_found:?}");
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployer_killed_during_rollback_leaves_one_healthy_color() -> Result {
    let mut torture = Torture::start().await?;
    // `deployer_killed_at_any_step_leaves_one_healthy_color` kills at the points of a good deployment.
    let points_of_good_deployment = torture.kill_points(Action::Deploy).await?;
    for action in [Action::DeployAndRollBack, Action::DeployAndRefuse] {
        let points = torture
            .kill_at_every_point(action, &points_of_good_deployment)
            .await?;
        ensure!(points >= 2, "{action:?}: {points}");
    }
    let (_, log) = torture.stop().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployer_to_blue_killed_at_any_step_leaves_one_healthy_color() -> Result {
    let mut torture = Torture::start().await?;
    torture.run_deployment().await?;
    // The deployment to green has the points that do not depend on the color, and another test kills there.
    let mut points = torture.kill_points(Action::DeployToBlue).await?;
    points.retain(|point| point.contains("blue") || point.contains("green"));
    for point in &points {
        torture.kill_at(Action::DeployToBlue, point).await?;
    }
    ensure!(points.len() >= 6, "{points:?}");
    let (_, log) = torture.stop().await;
    log.ensure_none_failed()
}

/// Kills each of these actions at each of its kill points. Fails if a client request fails.
async fn kill_at_every_point(actions: &[Action]) -> Result {
    let mut torture = Torture::start().await?;
    for action in actions {
        let points = torture.kill_at_every_point(*action, &[]).await?;
        ensure!(points >= 6, "{action:?}: {points}");
    }
    let (_, log) = torture.stop().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_rollback_or_switch_is_resumed() -> Result {
    kill_at_every_point(&[Action::Rollback, Action::Switch]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_recovery_is_recovered() -> Result {
    kill_at_every_point(&[Action::Recover]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_failover_is_resumed() -> Result {
    let mut torture = Torture::start().await?;
    let mut points = torture.kill_points(Action::FailOver).await?;
    // After each kill, a color is restarted and a deployment runs, which takes long. The state before a step is the
    // state after the previous step, so the points after a step suffice.
    points.retain(|point| point.starts_with("after"));
    ensure!(points.len() >= 6, "{points:?}");
    for point in &points {
        torture.kill_at(Action::FailOver, point).await?;
    }
    let (_, log) = torture.stop().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn deployer_killed_at_random_moments_leaves_one_healthy_color() -> Result {
    const KILLS: usize = 40;

    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut torture = Torture::start().await?;
    let deployment_duration = torture.run_deployment().await?;
    for _ in 0..KILLS {
        let result = torture
            .kill_after(deployment_duration.mul_f64(random.f64()))
            .await;
        result.map_err(|error| error.context(format!("seed {seed}")))?;
    }
    let (_, log) = torture.stop().await;
    log.ensure_none_failed()
}

/// Starts a stack with clients, and kills a deployer after its switch to v2.
async fn kill_deployer_after_switch() -> Result<(Stack, Traffic)> {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, Duration::from_millis(20))?;
    let mut deployer = stack.start_deployer(&["deploy", "v2", "--bake", "60s"])?;
    stack.wait_for_phase("switched").await?;
    deployer.kill().await?;
    Ok((stack, traffic))
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_continues_bake_with_on_interrupt_continue() -> Result {
    let (stack, traffic) = kill_deployer_after_switch().await?;
    let run = stack
        .expect_exit(
            0,
            &["recover", "--on-interrupt", "continue", "--bake", "2s"],
        )
        .await?;
    ensure!(run.stdout.contains("promoted: v2 on green"), "{run:?}");
    let again = stack.expect_exit(0, &["recover"]).await?;
    ensure!(again.stdout.contains("nothing to recover"), "{again:?}");
    traffic.stop().await.ensure_none_failed()?;
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_reverts_an_interrupted_deployment() -> Result {
    let (stack, traffic) = kill_deployer_after_switch().await?;
    let run = stack.expect_exit(0, &["rollback"]).await?;
    ensure!(
        run.stdout.contains("rolled back: blue serves v1"),
        "{run:?}"
    );
    traffic.stop().await.ensure_none_failed()
}
