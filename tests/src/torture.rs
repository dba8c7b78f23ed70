//! Kills deployers at any moment under load. Afterwards traffic must be on one healthy color, and no request may
//! have failed.

mod action;
mod invariants;
mod preparation;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

pub use self::action::Action;
use self::action::FAST_DEPLOYMENT;
use crate::{BakeDuration, DeployerRun, Stack, Traffic, TrafficLog};

/// Few enough clients that two cores can also run the stack and other tests.
const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// A stack under load on which deployers are killed.
pub struct Torture {
    stack: Stack,
    traffic: Traffic,
    /// How many killed deployments were found in each phase.
    phases_found: BTreeMap<String, usize>,
}

impl Torture {
    /// Starts the stack and its clients.
    pub async fn start() -> anyhow::Result<Self> {
        let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(1)))?;
        stack.expect_exit(0, &["up"]).await?;
        let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
        traffic.wait_for_requests(100).await?;
        Ok(Self {
            stack,
            traffic,
            phases_found: BTreeMap::new(),
        })
    }

    /// Returns the version to deploy: the one that the active color does not serve.
    async fn next_version(&self) -> anyhow::Result<&'static str> {
        let status = self.stack.status().await?;
        let active_index = usize::from(status["active"] == "green");
        let v1 = status["colors"][active_index]["model_version"] == "v1";
        Ok(if v1 { "v2" } else { "v1" })
    }

    /// Runs a whole deployment without a kill. Returns its duration.
    pub async fn run_deployment(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &FAST_DEPLOYMENT[..]].concat();
        self.stack.expect_exit(0, &arguments).await?;
        Ok(began.elapsed())
    }

    /// Runs an action with these environment variables until its command exits.
    async fn run(
        &self,
        action: Action,
        environment: &[(&str, &std::ffi::OsStr)],
    ) -> anyhow::Result<DeployerRun> {
        self.prepare(action).await?;
        let version = self.next_version().await?;
        let arguments = action.arguments(version);
        let child = self.stack.start_deployer_with(&arguments, environment)?;
        self.trigger(action, &child).await?;
        Stack::wait_for_exit(child, &arguments).await
    }

    /// Runs an action without a kill. Returns its kill points in their order.
    pub async fn kill_points(&self, action: Action) -> anyhow::Result<Vec<String>> {
        let points_file: PathBuf = self.stack.path("points");
        let run = self
            .run(action, &[("DEPLOYER_KILL_POINTS", points_file.as_os_str())])
            .await?;
        ensure!(run.code == action.exit_code(), "{run:?}");
        let points = fs::read_to_string(&points_file)?
            .lines()
            .map(str::to_owned)
            .collect();
        fs::remove_file(&points_file)?;
        self.restart_colors(action).await?;
        Ok(points)
    }

    /// Kills an action's command at this kill point, recovers, and checks the result.
    pub async fn kill_at(&mut self, action: Action, point: &str) -> anyhow::Result<()> {
        let run = self
            .run(action, &[("DEPLOYER_KILL_AT", point.as_ref())])
            .await?;
        ensure!(
            run.code == -1,
            "{action:?} was not killed at {point:?}: {run:?}"
        );
        self.check_recovery(action != Action::FailOver)
            .await
            .with_context(|| format!("{action:?}, killed at {point:?}"))?;
        self.restart_colors(action).await
    }

    /// Kills an action's command at each of its kill points, except the skipped ones. Returns the number of kills.
    pub async fn kill_at_every_point(
        &mut self,
        action: Action,
        skipped: &[String],
    ) -> anyhow::Result<usize> {
        let mut points = self.kill_points(action).await?;
        points.retain(|point| !skipped.contains(point));
        for point in &points {
            self.kill_at(action, point).await?;
        }
        Ok(points.len())
    }

    /// Kills a deployment after this time if it still runs, recovers, and checks the result.
    pub async fn kill_after(&mut self, delay: Duration) -> anyhow::Result<()> {
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &FAST_DEPLOYMENT[..]].concat();
        let mut child = self.stack.start_deployer(&arguments)?;
        if tokio::time::timeout(delay, child.wait()).await.is_err() {
            child.kill().await?;
        }
        self.check_recovery(true)
            .await
            .with_context(|| format!("deployment killed after {delay:?}"))
    }

    /// Stops the clients. Returns how many killed deployments were found in each phase, and the record of all
    /// requests.
    pub async fn stop(self) -> (BTreeMap<String, usize>, TrafficLog) {
        let log = self.traffic.stop().await;
        (self.phases_found, log)
    }
}
