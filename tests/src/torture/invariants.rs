//! Checks the state after a deployer was killed, and again after the recovery.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Torture;
use crate::get;

impl Torture {
    /// Checks the state after a kill, runs `deployer recover`, and checks the state again.
    ///
    /// - Traffic is on one healthy color, or its standby answers.
    /// - `deployer status` agrees with the flags, the router, and the servers.
    /// - The recovery leaves nothing pending. The history has the end of the deployment exactly once.
    ///
    /// `active_is_up` is false if the active color itself was killed. Then it may be unhealthy.
    pub(super) async fn check_recovery(&mut self, active_is_up: bool) -> anyhow::Result<()> {
        let after_kill = self.stack.status().await?;
        self.check_status(&after_kill, false).await?;
        let phase = after_kill["last_deployment"]["phase"].as_str();
        let phase = phase.unwrap_or("not started").to_owned();
        *self.phases_found.entry(phase).or_default() += 1;
        let requests_before = self.traffic.count();
        self.stack.expect_exit(0, &["recover"]).await?;
        self.traffic.wait_for_requests(requests_before + 20).await?;

        let recovered = self.stack.status().await?;
        self.check_status(&recovered, active_is_up).await?;
        ensure!(
            recovered.get("traffic_move") == Some(&Value::Null),
            "a move of traffic is pending: {recovered}"
        );
        ensure!(
            !self.stack.path("run/flags/shadow").exists(),
            "the flag `shadow` still exists: the router still copies requests"
        );
        let last = &recovered["last_deployment"];
        let (phase, plan) = (last["phase"].as_str().unwrap_or_default(), &last["plan"]);
        let entries = self.history().await?;
        let about_standby = |entry: &&Value| {
            ["restored", "not_restored"].contains(&entry["action"].as_str().unwrap_or_default())
        };
        let last_entry = entries.iter().rev().find(|it| !about_standby(it));
        match (phase, last_entry) {
            // Traffic moved after the deployment.
            (_, Some(entry)) if entry["id"].is_null() => {
                ensure!(recovered["active"] == entry["color"], "{recovered}");
            }
            ("promoted", _) => ensure!(recovered["active"] == plan["idle"], "{recovered}"),
            ("refused" | "rolled_back", _) => {
                ensure!(recovered["active"] == plan["active"], "{recovered}");
            }
            // Here a deployment halts only after `deployer switch`.
            ("halted", _) => {}
            _ => anyhow::bail!("the deployment has not ended, its phase is {phase:?}: {recovered}"),
        }
        for pair in entries.windows(2) {
            let same = |field: &str| pair[0][field] == pair[1][field];
            let repeated = same("action") && same("color") && same("id");
            ensure!(!repeated, "the history has an entry twice: {pair:?}");
        }
        let is_end = |entry: &&Value| entry["id"] == plan["id"] && entry["action"] == phase;
        ensure!(
            entries.iter().filter(is_end).count() == 1,
            "the history does not have {phase} of {} exactly once: {entries:?}",
            plan["id"]
        );
        Ok(())
    }

    /// The entries of the history, oldest first.
    async fn history(&self) -> anyhow::Result<Vec<Value>> {
        let run = self.stack.expect_exit(0, &["history", "--json"]).await?;
        let mut history: Value = serde_json::from_str(&run.stdout)?;
        serde_json::from_value(history["history"].take()).context("the output has no history")
    }

    /// Whether the last deployment was rolled back to the active color, and its standby got back what it held before: then
    /// nothing is left to roll back.
    async fn standby_is_restored(&self, status: &Value, standby: &Value) -> anyhow::Result<bool> {
        let (last, active) = (&status["last_deployment"], &status["active"]);
        let plan = &last["plan"];
        if last["phase"] != "rolled_back" || plan["active"] != *active {
            return Ok(false);
        }
        if standby["model_version"] != plan["release"]["version"] {
            return Ok(true);
        }
        let entries = self.history().await?;
        let end = entries.iter().rposition(|entry| entry["id"] == plan["id"]);
        let since = end.map_or(&[][..], |end| &entries[end + 1..]);
        Ok(since.iter().any(|entry| entry["action"] == "restored"))
    }

    /// Checks that `status` agrees with the flags, the router, and the servers.
    ///
    /// `settled`: no color is starting or down, so each color's health must agree too.
    async fn check_status(&self, status: &Value, settled: bool) -> anyhow::Result<()> {
        let flag = |name: &str| self.stack.path("run/flags").join(name).exists();
        let active = if flag("green") { "green" } else { "blue" };
        ensure!(status["active"] == active, "{status}");
        ensure!(status["lock_holder"].is_null(), "{status}");
        let control = format!("127.0.0.1:{}", self.stack.ports().control());
        let router_active = get(&control, "/active").await?;
        ensure!(
            router_active.trim() == active,
            "the router says {router_active}, which differs from the flags: {status}"
        );

        let colors = status["colors"]
            .as_array()
            .context("status has no colors")?;
        let mut can_roll_back = false;
        for color in colors {
            let name = color["color"].as_str().context("a color has no name")?;
            ensure!(color["fit"] == flag(&format!("fit-{name}")), "{status}");
            let port = match name {
                "blue" => self.stack.ports().blue(),
                _ => self.stack.ports().green(),
            };
            let health = get(&format!("127.0.0.1:{port}"), "/health").await;
            // Before the recovery, a candidate that is loading may become healthy between the two checks.
            ensure!(!settled || color["healthy"] == health.is_ok(), "{status}");
            if name != active {
                can_roll_back = color["healthy"] == true
                    && color["fit"] == true
                    && !self.standby_is_restored(status, color).await?;
            } else if settled {
                ensure!(color["healthy"] == true, "{status}");
            }
            let active_serves = name == active && color["healthy"] == true;
            if active_serves {
                let public = get(&self.stack.router_address().to_string(), "/health").await?;
                let public: Value = serde_json::from_str(&public)?;
                ensure!(
                    public["model_version"] == color["model_version"],
                    "another release answers clients: {public}: {status}"
                );
            } else if name == active {
                // The active color crashed, so a fit standby must exist to answer.
                ensure!(colors.iter().any(|it| it["fit"] == true), "{status}");
            }
        }
        ensure!(
            status["can_roll_back"] == can_roll_back,
            "can_roll_back is not {can_roll_back}: {status}"
        );
        Ok(())
    }
}
