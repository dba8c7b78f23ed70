//! The state of the stack that each action needs, and the event that a monitor reacts to.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Child;

use super::{Torture, action::Action};
use crate::Stack;

impl Torture {
    async fn is_active(&self, color: &str) -> anyhow::Result<bool> {
        Ok(self.stack.status().await?["active"] == color)
    }

    async fn make_active(&self, color: &str) -> anyhow::Result<()> {
        if !self.is_active(color).await? {
            self.run_deployment().await?;
        }
        Ok(())
    }

    /// Moves traffic to the color with which the action begins.
    ///
    /// The names of kill points contain colors, so an action must always begin with the same one.
    pub(super) async fn prepare(&self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Deploy
            | Action::DeployAndRefuse
            | Action::DeployAndRollBack
            | Action::Switch => {
                self.make_active("blue").await?;
            }
            Action::DeployToBlue => self.make_active("green").await?,
            // These actions need a fit standby.
            Action::Rollback | Action::FailOver => {
                let status = self.stack.status().await?;
                if status["active"] != "green" || status["can_roll_back"] != true {
                    self.make_active("blue").await?;
                    self.run_deployment().await?;
                }
            }
            Action::Recover => {
                self.make_active("blue").await?;
                let arguments = Action::Deploy.arguments(self.next_version().await?);
                let kill = [("DEPLOYER_KILL_AT", "after journal switched".as_ref())];
                let child = self.stack.start_deployer_with(&arguments, &kill)?;
                let run = Stack::wait_for_exit(child, &arguments).await?;
                ensure!(run.code == -1, "the deployer was not killed: {run:?}");
            }
        }
        if action == Action::Switch && !self.is_healthy("green").await? {
            // It is stopped if it held the version that was refused there.
            self.run_deployment().await?;
            self.run_deployment().await?;
        }
        Ok(())
    }

    async fn is_healthy(&self, color: &str) -> anyhow::Result<bool> {
        let status = self.stack.status().await?;
        let index = usize::from(color == "green");
        Ok(status["colors"][index]["healthy"] == true)
    }

    /// Causes the event that the action reacts to: for a failover, the crash of green.
    pub(super) async fn trigger(&self, action: Action, child: &Child) -> anyhow::Result<()> {
        if action != Action::FailOver {
            return Ok(());
        }
        self.stack.signal_service("green", "KILL")?;
        self.stack.wait_until_exited("green").await?;
        // Without a kill, the monitor does not exit by itself: it is stopped after the failover.
        let failed_over = async {
            while is_running(child) && !self.failed_over().await? {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(30), failed_over)
            .await
            .context("no failover within 30 s")??;
        if is_running(child) {
            Stack::signal_deployer(child, "TERM")?;
        }
        Ok(())
    }

    /// Returns whether blue is active and no move of traffic is pending.
    async fn failed_over(&self) -> anyhow::Result<bool> {
        let status = self.stack.status().await?;
        Ok(status.get("traffic_move") == Some(&serde_json::Value::Null)
            && status["active"] == "blue")
    }

    /// Starts the color that a failover leaves stopped.
    pub(super) async fn restart_colors(&self, action: Action) -> anyhow::Result<()> {
        if action == Action::FailOver {
            self.stack.expect_exit(0, &["up"]).await?;
        }
        Ok(())
    }
}

/// Returns whether the process still runs. It does not reap the process: `Stack::wait_for_exit` does.
fn is_running(child: &Child) -> bool {
    child.id().is_some_and(crate::stack::is_running)
}
