//! The state after a killed deployer, and after the next command.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Torture;
use crate::get;

impl Torture {
    /// Checks that traffic is on one healthy color, or that its standby answers; that `status` is true; and
    /// that `recover` completes everything. Afterwards both colors are healthy as far as they should run,
    /// except an active color that was killed itself.
    pub(super) async fn look(&mut self, well: bool) -> anyhow::Result<()> {
        let left = self.stack.status().await?;
        self.ensure_true(&left, false).await?;
        let phase = left["last_deployment"]["phase"].as_str();
        let phase = phase.unwrap_or("not begun").to_owned();
        *self.found.entry(phase).or_default() += 1;
        let answered = self.traffic.count();
        self.stack.expect(0, &["recover"]).await?;
        self.traffic.reach(answered + 20).await?;

        let now = self.stack.status().await?;
        self.ensure_true(&now, well).await?;
        ensure!(
            !self.stack.path("state/move.json").exists(),
            "it still intends something"
        );
        ensure!(
            !self.stack.path("run/flags/shadow").exists(),
            "copies are still made"
        );
        let last = &now["last_deployment"];
        let (phase, plan) = (last["phase"].as_str().unwrap_or_default(), &last["plan"]);
        let history = self.stack.expect(0, &["history", "--json"]).await?;
        let history: Value = serde_json::from_str(&history.stdout)?;
        let past = history["history"].as_array().context("no history")?;
        let action = past
            .last()
            .map_or("", |past| past["action"].as_str().unwrap_or_default());
        match (phase, action) {
            // A person has moved traffic since.
            (_, "switched") => ensure!(now["active"] == past[past.len() - 1]["color"], "{now}"),
            ("promoted", _) => ensure!(now["active"] == plan["idle"], "{now}"),
            ("refused" | "rolled_back", _) => ensure!(now["active"] == plan["active"], "{now}"),
            // Only after `deployer switch`.
            ("halted", _) => {}
            _ => anyhow::bail!("{phase:?} is no end: {now}"),
        }
        for lines in past.windows(2) {
            let same = |field: &str| lines[0][field] == lines[1][field];
            let twice = same("action") && same("color") && same("id");
            ensure!(!twice, "written twice: {lines:?}");
        }
        let ends = |past: &&Value| past["id"] == plan["id"] && past["action"] == phase;
        ensure!(
            past.iter().filter(ends).count() == 1,
            "{phase} of {} is not told once: {history}",
            plan["id"]
        );
        Ok(())
    }

    /// Flags, router, and the server that answers clients agree with `status`.
    async fn ensure_true(&self, status: &Value, settled: bool) -> anyhow::Result<()> {
        let flag = |name: &str| self.stack.path("run/flags").join(name).exists();
        let active = if flag("green") { "green" } else { "blue" };
        ensure!(status["active"] == active, "{status}");
        ensure!(status["lock_holder"].is_null(), "{status}");
        let control = format!("127.0.0.1:{}", self.stack.ports().control());
        let told = get(&control, "/active").await?;
        ensure!(told.trim() == active, "the router says {told}: {status}");

        let colors = status["colors"].as_array().context("no colors")?;
        let mut standby_is_well = false;
        for color in colors {
            let name = color["color"].as_str().context("no name")?;
            ensure!(color["fit"] == flag(&format!("fit-{name}")), "{status}");
            let port = match name {
                "blue" => self.stack.ports().blue(),
                _ => self.stack.ports().green(),
            };
            let answer = get(&format!("127.0.0.1:{port}"), "/health").await;
            // A loading candidate may become healthy between two checks.
            ensure!(!settled || color["healthy"] == answer.is_ok(), "{status}");
            if name != active {
                standby_is_well = color["healthy"] == true && color["fit"] == true;
            } else if settled {
                ensure!(color["healthy"] == true, "{status}");
            }
            let serves = name == active && color["healthy"] == true;
            if serves {
                let public = get(&self.stack.router().to_string(), "/health").await?;
                let public: Value = serde_json::from_str(&public)?;
                ensure!(
                    public["model_version"] == color["model_version"],
                    "clients are answered by {public}: {status}"
                );
            } else if name == active {
                // The color that crashed: its standby answers.
                ensure!(colors.iter().any(|it| it["fit"] == true), "{status}");
            }
        }
        ensure!(status["can_roll_back"] == standby_is_well, "{status}");
        Ok(())
    }
}
