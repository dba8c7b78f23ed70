//! Deployers killed at any moment under load: afterwards traffic is on one healthy color, and no client has
//! noticed.

mod action;
mod aftermath;

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

pub use self::action::Action;
use crate::{Bake, Log, Run, Stack, Traffic};

/// Few enough for two cores beside everything else.
const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// A stack under load whose deployers are killed.
pub struct Torture {
    stack: Stack,
    traffic: Traffic,
    /// How often the next command found a deployment in each phase.
    found: BTreeMap<String, usize>,
}

/// The arguments of a deployment that takes no longer than necessary.
const SHORT: [&str; 6] = [
    "--bake",
    "1s",
    "--set",
    "health.interval=100ms",
    // Other tests share the cores.
    "--set",
    "health.tries=100",
];

impl Torture {
    /// Starts the stack and its clients.
    pub async fn begin() -> anyhow::Result<Self> {
        let stack = Stack::of_processes("model-server", Bake(Duration::from_secs(1)))?;
        stack.expect(0, &["up"]).await?;
        let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
        traffic.reach(100).await?;
        Ok(Self {
            stack,
            traffic,
            found: BTreeMap::new(),
        })
    }

    /// The release for the idle color.
    async fn next_version(&self) -> anyhow::Result<&'static str> {
        let status = self.stack.status().await?;
        let active = usize::from(status["active"] == "green");
        let v1 = status["colors"][active]["model_version"] == "v1";
        Ok(if v1 { "v2" } else { "v1" })
    }

    /// Runs a deployment without a kill. Returns how long it took.
    pub async fn whole_deployment(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &SHORT[..]].concat();
        self.stack.expect(0, &arguments).await?;
        Ok(began.elapsed())
    }

    /// Starts the action with these environment variables, and waits for its end.
    async fn run(
        &self,
        action: Action,
        environment: &[(&str, &std::ffi::OsStr)],
    ) -> anyhow::Result<Run> {
        self.prepare(action).await?;
        let version = self.next_version().await?;
        let arguments = action.arguments(version);
        let child = self.stack.start_deployer_with(&arguments, environment)?;
        self.after_the_start(action, &child).await?;
        Stack::finish(child, &arguments).await
    }

    /// Every kill point of an action, in order.
    pub async fn points(&self, action: Action) -> anyhow::Result<Vec<String>> {
        let list: PathBuf = self.stack.path("points");
        let run = self
            .run(action, &[("DEPLOYER_KILL_POINTS", list.as_os_str())])
            .await?;
        ensure!(run.code == action.code(), "{run:?}");
        let points = fs::read_to_string(&list)?
            .lines()
            .map(str::to_owned)
            .collect();
        fs::remove_file(&list)?;
        self.clear_up(action).await?;
        Ok(points)
    }

    /// Kills the action at this point, and checks what is left.
    pub async fn kill_at(&mut self, action: Action, point: &str) -> anyhow::Result<()> {
        let run = self
            .run(action, &[("DEPLOYER_KILL_AT", point.as_ref())])
            .await?;
        ensure!(run.code == -1, "it was not killed at {point:?}: {run:?}");
        self.look(action != Action::FailOver)
            .await
            .with_context(|| format!("{action:?}, killed at {point:?}"))?;
        self.clear_up(action).await
    }

    /// Kills the action at every point except those left out. Returns their number.
    pub async fn kill_everywhere(
        &mut self,
        action: Action,
        left_out: &[String],
    ) -> anyhow::Result<usize> {
        let mut points = self.points(action).await?;
        points.retain(|point| !left_out.contains(point));
        for point in &points {
            self.kill_at(action, point).await?;
        }
        Ok(points.len())
    }

    /// Kills a deployment after this time, if it still runs, and checks what is left.
    pub async fn kill_after(&mut self, delay: Duration) -> anyhow::Result<()> {
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &SHORT[..]].concat();
        let mut child = self.stack.start_deployer(&arguments)?;
        if tokio::time::timeout(delay, child.wait()).await.is_err() {
            child.kill().await?;
        }
        self.look(true)
            .await
            .with_context(|| format!("killed after {delay:?}"))
    }

    /// Stops the clients. Returns how often each phase was found, and the record of all requests.
    pub async fn end(self) -> (BTreeMap<String, usize>, Log) {
        let log = self.traffic.stop().await;
        (self.found, log)
    }
}
