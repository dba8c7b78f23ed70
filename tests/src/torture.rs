//! A deployer that is killed at any moment, under load: afterwards traffic is on one healthy color,
//! and no client has noticed.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{Log, Stack, Traffic, Watch};

/// Few enough that two cores can serve them beside everything else.
const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);

/// A stack under load whose deployers are killed.
pub struct Torture {
    stack: Stack,
    traffic: Traffic,
    /// How often a deployment was found in which phase by the run after.
    found: BTreeMap<String, usize>,
}

/// The arguments of a deployment that is proven and watched for no longer than it must be.
const SHORT: [&str; 4] = ["--watch", "1s", "--health-interval", "100ms"];

impl Torture {
    /// Starts the stack and its clients.
    pub async fn begin() -> anyhow::Result<Self> {
        let stack = Stack::of_processes("model-server", Watch(Duration::from_secs(1)))?;
        stack.expect(0, &["up"]).await?;
        let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
        traffic.reach(100).await?;
        Ok(Self {
            stack,
            traffic,
            found: BTreeMap::new(),
        })
    }

    /// The release that the idle color is to get.
    async fn next_version(&self) -> anyhow::Result<&'static str> {
        let status = self.stack.status().await?;
        let active = usize::from(status["active"] == "green");
        let v1 = status["colors"][active]["model_version"] == "v1";
        Ok(if v1 { "v2" } else { "v1" })
    }

    /// Makes a deployment that nobody kills, and tells how long it took.
    pub async fn whole_deployment(&self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &SHORT[..]].concat();
        self.stack.expect(0, &arguments).await?;
        Ok(began.elapsed())
    }

    /// Sees to it that the next deployment goes to green: points bear the names of colors.
    async fn let_blue_be_active(&self) -> anyhow::Result<()> {
        if self.stack.status().await?["active"] == "green" {
            self.whole_deployment().await?;
        }
        Ok(())
    }

    /// Every point that a deployment passes at which it can be killed; `more` are further arguments
    /// and what it comes to.
    pub async fn points(&self, code: i32, more: &[&str]) -> anyhow::Result<Vec<String>> {
        self.let_blue_be_active().await?;
        let list: PathBuf = self.stack.path("points");
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &SHORT[..], more].concat();
        let child = self
            .stack
            .start_deployer_with(&arguments, &[("DEPLOYER_KILL_POINTS", list.as_os_str())])?;
        let run = Stack::finish(child, &arguments).await?;
        ensure!(run.code == code, "{run:?}");
        let mut points: Vec<String> = Vec::new();
        for point in fs::read_to_string(&list)?.lines() {
            if !points.iter().any(|known| known == point) {
                points.push(point.to_owned());
            }
        }
        fs::remove_file(&list)?;
        Ok(points)
    }

    /// Kills a deployment at this point, and looks at what is left.
    pub async fn kill_at(&mut self, point: &str, more: &[&str]) -> anyhow::Result<()> {
        self.let_blue_be_active().await?;
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &SHORT[..], more].concat();
        let child = self
            .stack
            .start_deployer_with(&arguments, &[("DEPLOYER_KILL_AT", point.as_ref())])?;
        let run = Stack::finish(child, &arguments).await?;
        ensure!(run.code == -1, "it was not killed at {point:?}: {run:?}");
        self.look()
            .await
            .with_context(|| format!("killed at {point:?}"))
    }

    /// Kills a deployment after so long, if it takes so long, and looks at what is left.
    pub async fn kill_after(&mut self, delay: Duration) -> anyhow::Result<()> {
        let version = self.next_version().await?;
        let arguments = [&["deploy", version], &SHORT[..]].concat();
        let mut child = self.stack.start_deployer(&arguments)?;
        if tokio::time::timeout(delay, child.wait()).await.is_err() {
            child.kill().await?;
        }
        self.look()
            .await
            .with_context(|| format!("killed after {delay:?}"))
    }

    /// Traffic is on one healthy color before anybody does anything, `status` says so truly, and
    /// `recover` brings the deployment to an end.
    async fn look(&mut self) -> anyhow::Result<()> {
        let left = self.stack.status().await?;
        let phase = left["last_deployment"]["phase"].as_str();
        let phase = phase.unwrap_or("not begun").to_owned();
        ensure_served(&left)?;
        *self.found.entry(phase).or_default() += 1;
        let answered = self.traffic.count();
        self.stack.expect(0, &["recover"]).await?;
        self.traffic.reach(answered + 20).await?;

        let now = self.stack.status().await?;
        ensure_served(&now)?;
        let last = &now["last_deployment"];
        let (phase, plan) = (last["phase"].as_str().unwrap_or_default(), &last["plan"]);
        match phase {
            "promoted" => ensure!(now["active"] == plan["idle"], "{now}"),
            "refused" | "rolled_back" => ensure!(now["active"] == plan["active"], "{now}"),
            _ => anyhow::bail!("{phase:?} is no end: {now}"),
        }
        let history = self.stack.expect(0, &["history", "--json"]).await?;
        let history: Value = serde_json::from_str(&history.stdout)?;
        let past = history["history"].as_array().context("no history")?;
        let lines = past.iter().filter(|past| past["id"] == plan["id"]).count();
        ensure!(
            lines == 1,
            "{lines} lines tell of {}: {history}",
            plan["id"]
        );
        Ok(())
    }

    /// Ends the clients; how often which phase was found, and what clients saw.
    pub async fn end(self) -> (BTreeMap<String, usize>, Log) {
        let log = self.traffic.stop().await;
        (self.found, log)
    }
}

/// The router names one color, and that one is healthy.
fn ensure_served(status: &Value) -> anyhow::Result<()> {
    let colors = status["colors"].as_array().context("no colors")?;
    let mut active = colors
        .iter()
        .filter(|color| color["color"] == status["active"]);
    let color = active
        .next()
        .with_context(|| format!("nobody is active: {status}"))?;
    ensure!(color["healthy"] == true, "{status}");
    Ok(())
}
