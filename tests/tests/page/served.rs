//! A stack whose monitor serves the page.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack};
use tokio::process::Child;

use crate::browser::Browser;

type Result<T = ()> = anyhow::Result<T>;

/// Sections of `deployer.toml` with which no verdict depends on the speed of this machine.
const SETTINGS: &str = r#"
[gates]
run = ["identity", "reachable", "smoke"]

[probe]
timeout = "60s"

[health]
stall = "60s"
interval = "100ms"

[bake]
duration = "BAKE"
interval = "200ms"
negligible = "1h"
"#;

/// Returns these sections. `bake`: the duration of the bake, such as `3s`.
pub(crate) fn settings(bake: &str) -> String {
    SETTINGS.replace("BAKE", bake)
}

const MONITOR: &str = r#"
[monitor]
page = "127.0.0.1:PORT"
interval = "200ms"
"#;

/// A stack of processes, and the monitor beside it. Blue serves v1 and is active.
pub(crate) struct ServedPage {
    pub(crate) stack: Stack,
    monitor: Option<Child>,
}

impl ServedPage {
    /// Starts the stack and its monitor. `bake`: the duration of the bake, such as `3s`. `further`: further sections of
    /// `deployer.toml`.
    pub(crate) async fn start(bake: &str, further: &str) -> Result<Self> {
        Self::start_with(&[&settings(bake), further].concat()).await
    }

    /// Starts the stack and its monitor with these sections of `deployer.toml`.
    pub(crate) async fn start_with(sections: &str) -> Result<Self> {
        let stack = Stack::with_processes("faulty-server", BakeDuration(Duration::ZERO))?;
        let page = stack.ports().page().to_string();
        let monitor = MONITOR.replace("PORT", &page);
        stack.replace_settings(&[sections, &monitor].concat())?;
        fs::create_dir(stack.path("secrets"))?;
        stack.expect_exit(0, &["up"]).await?;
        let mut served = Self {
            stack,
            monitor: None,
        };
        served.start_monitor().await?;
        Ok(served)
    }

    /// The address of the page, without a slash at its end.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The page's host and port.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.stack.ports().page()).into()
    }

    /// Starts the monitor, and waits until it serves the page.
    pub(crate) async fn start_monitor(&mut self) -> Result {
        self.monitor = Some(self.stack.start_deployer(&["monitor"])?);
        let address = self.address();
        let served = async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), served)
            .await
            .context("the monitor does not serve the page")
    }

    /// Kills the monitor, as a crash does.
    pub(crate) async fn kill_monitor(&mut self) -> Result {
        let mut monitor = self.monitor.take().context("no monitor runs")?;
        Ok(monitor.kill().await?)
    }

    /// The process ID of the monitor.
    pub(crate) fn monitor_pid(&self) -> Result<u32> {
        let monitor = self.monitor.as_ref().and_then(Child::id);
        monitor.context("no monitor runs")
    }

    /// Makes a key. `role`: `see` or `act`.
    pub(crate) async fn make_key(&self, name: &str, role: &str) -> Result<String> {
        let arguments = ["page-key", name, "--role", role];
        let made = self.stack.expect_exit(0, &arguments).await?;
        let key = made.stdout.lines().next().context("no key was printed")?;
        Ok(key.to_owned())
    }

    /// Makes a link that signs in once.
    pub(crate) async fn make_link(&self) -> Result<String> {
        let made = self.stack.expect_exit(0, &["page-link"]).await?;
        let link = made.stdout.lines().next().context("no link was printed")?;
        ensure!(link.starts_with(&self.url()), "{link}");
        Ok(link.to_owned())
    }

    /// Opens the page, and signs in with a key.
    pub(crate) async fn sign_in(&self, browser: &Browser, key: &str) -> Result {
        browser.open(&self.url()).await?;
        browser.fill_in("#key", key).await?;
        browser.click("form.sign-in button").await?;
        browser.element("#colors").await?;
        Ok(())
    }

    /// Stops the monitor by SIGTERM, as systemd does. Fails unless it exits with 0.
    pub(crate) async fn stop(mut self) -> Result {
        let monitor = self.monitor.take().context("no monitor runs")?;
        Stack::signal_deployer(&monitor, "TERM")?;
        let run = Stack::wait_for_exit(monitor, &["monitor"]).await?;
        ensure!(run.code == 0, "{run:?}");
        Ok(())
    }
}

/// Fills in the form of an action, and sends it.
pub(crate) async fn act(browser: &Browser, action: &str, reason: &str) -> Result {
    open_action(browser, action).await?;
    let form = format!("#action-{action}");
    browser
        .fill_in(&format!("{form} input[name=reason]"), reason)
        .await?;
    browser.click(&format!("{form} button")).await
}

/// Unfolds the form of an action.
pub(crate) async fn open_action(browser: &Browser, action: &str) -> Result {
    let form = format!("#action-{action}");
    browser.element(&form).await?;
    if browser.count(&format!("{form}[open]")).await? == 0 {
        browser.click(&format!("{form} summary")).await?;
    }
    Ok(())
}
