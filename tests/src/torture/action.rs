//! The command that is killed, and where traffic is before it.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::process::Child;

use super::{SHORT, Torture};
use crate::Stack;

/// Keeps a candidate with traffic from being promoted.
const TAKEN_BACK: [&str; 2] = ["--set", "hooks.before.promoted=[\"false\"]"];
/// Keeps a validated candidate from receiving traffic.
const NOT_SWITCHED: [&str; 2] = ["--set", "hooks.before.switched=[\"false\"]"];
/// Notices at once that a color is down, and fails over.
const FAILING_OVER: [&str; 8] = [
    "--set",
    "monitor.failover=true",
    "--set",
    "monitor.interval=100ms",
    "--set",
    "monitor.fall=2",
    "--set",
    "monitor.rise=1",
];

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A deployment to green.
    Deploy,
    /// A deployment to blue.
    DeployToBlue,
    /// A deployment to green that is refused after validation.
    Refuse,
    /// A deployment to green that is rolled back.
    TakeBack,
    /// `deployer rollback`, from green to blue.
    Rollback,
    /// `deployer switch green`.
    Switch,
    /// `deployer recover` after a deployer that was killed right after the switch to green.
    Recover,
    /// `deployer monitor` when the active color, green, crashes.
    FailOver,
}

impl Action {
    /// The exit code without a kill.
    pub(super) fn code(self) -> i32 {
        match self {
            Self::Refuse => 10,
            Self::TakeBack => 20,
            _ => 0,
        }
    }

    pub(super) fn arguments(self, version: &'static str) -> Vec<&'static str> {
        let deploy = ["deploy", version];
        match self {
            Self::Deploy | Self::DeployToBlue => [&deploy, &SHORT[..]].concat(),
            Self::Refuse => [&deploy, &SHORT[..], &NOT_SWITCHED].concat(),
            Self::TakeBack => [&deploy, &SHORT[..], &TAKEN_BACK].concat(),
            Self::Rollback => vec!["rollback"],
            Self::Switch => vec!["switch", "green"],
            Self::Recover => vec!["recover"],
            Self::FailOver => [&["monitor"], &FAILING_OVER[..]].concat(),
        }
    }
}

impl Torture {
    async fn has_traffic(&self, color: &str) -> anyhow::Result<bool> {
        Ok(self.stack.status().await?["active"] == color)
    }

    async fn let_be_active(&self, color: &str) -> anyhow::Result<()> {
        if !self.has_traffic(color).await? {
            self.whole_deployment().await?;
        }
        Ok(())
    }

    /// Moves traffic to where the action begins. The names of kill points contain colors.
    pub(super) async fn prepare(&self, action: Action) -> anyhow::Result<()> {
        match action {
            Action::Deploy | Action::Refuse | Action::TakeBack | Action::Switch => {
                self.let_be_active("blue").await?;
            }
            Action::DeployToBlue => self.let_be_active("green").await?,
            // These actions need a standby that may stand in.
            Action::Rollback | Action::FailOver => {
                let status = self.stack.status().await?;
                if status["active"] != "green" || status["can_roll_back"] != true {
                    self.let_be_active("blue").await?;
                    self.whole_deployment().await?;
                }
            }
            Action::Recover => {
                self.let_be_active("blue").await?;
                let arguments = Action::Deploy.arguments(self.next_version().await?);
                let at = [("DEPLOYER_KILL_AT", "after journal switched".as_ref())];
                let child = self.stack.start_deployer_with(&arguments, &at)?;
                let run = Stack::finish(child, &arguments).await?;
                ensure!(run.code == -1, "{run:?}");
            }
        }
        if action == Action::Switch && !self.is_well("green").await? {
            // A refused candidate is stopped.
            self.stack.expect(0, &["up"]).await?;
        }
        Ok(())
    }

    async fn is_well(&self, color: &str) -> anyhow::Result<bool> {
        let status = self.stack.status().await?;
        let number = usize::from(color == "green");
        Ok(status["colors"][number]["healthy"] == true)
    }

    /// What happens to the colors while the command runs.
    pub(super) async fn after_the_start(
        &self,
        action: Action,
        child: &Child,
    ) -> anyhow::Result<()> {
        if action != Action::FailOver {
            return Ok(());
        }
        self.stack.signal("green", "KILL")?;
        self.stack.until_ended("green").await?;
        // Without a kill, the action has ended when it is in the history.
        let done = async {
            while runs(child) && !self.failed_over().await? {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(30), done)
            .await
            .context("no failover within 30 s")??;
        if runs(child) {
            Stack::tell(child, "TERM")?;
        }
        Ok(())
    }

    async fn failed_over(&self) -> anyhow::Result<bool> {
        let pending = self.stack.path("state/move.json").exists();
        Ok(!pending && self.has_traffic("blue").await?)
    }

    /// Restarts colors, so that both run.
    pub(super) async fn clear_up(&self, action: Action) -> anyhow::Result<()> {
        if action == Action::FailOver {
            self.stack.expect(0, &["up"]).await?;
        }
        Ok(())
    }
}

/// Whether the process runs; it is collected later.
fn runs(child: &Child) -> bool {
    child.id().is_some_and(crate::stack::runs)
}
