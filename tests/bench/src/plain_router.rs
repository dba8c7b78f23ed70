//! The usual way to switch: nginx with one upstream, whose file is rewritten before a reload.

use std::{
    ffi::OsString,
    fs::{self, File},
    net::SocketAddr,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{PortBlock, Stack};
use tokio::{net::TcpStream, process};

use crate::rig::{Color, Command};

/// nginx starts and reloads within milliseconds; anything near this has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same nginx with the same `nginx.conf`: log, keep-alive, worker processes and time-outs are
/// those of this project's router. Only the upstream and its server differ.
pub(crate) struct PlainRouter {
    nginx: Child,
    prefix: PathBuf,
    ports: PortBlock,
    blue: SocketAddr,
    green: SocketAddr,
}

impl PlainRouter {
    pub(crate) async fn start(stack: &Stack) -> anyhow::Result<Self> {
        let ports = PortBlock::take()?;
        let prefix = stack.path("plain-router");
        let [blue, green] = Color::BOTH.map(|color| color.server(stack.ports()));
        lay_out(&prefix, &stack.path("nginx/nginx.conf"))?;
        fs::write(
            prefix.join("addresses.conf"),
            addresses(ports.router(), blue, green),
        )?;
        write_upstream(&prefix, Color::Blue, blue)?;
        let router = Self {
            nginx: spawn(&prefix)?,
            prefix,
            ports,
            blue,
            green,
        };
        router.await_listening().await?;
        Ok(router)
    }

    /// Where clients come in.
    pub(crate) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports.router()).into()
    }

    /// Rewrites the upstream and reloads.
    pub(crate) async fn switch(&self, color: Color) -> anyhow::Result<Command> {
        let server = match color {
            Color::Blue => self.blue,
            Color::Green => self.green,
        };
        let begun = Instant::now();
        write_upstream(&self.prefix, color, server)?;
        let reload = process::Command::new("nginx")
            .args(["-s", "reload"])
            .args(arguments(&self.prefix)?)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(PATIENCE, reload)
            .await
            .context("`nginx -s reload` did not end")??;
        let returned = Instant::now();
        ensure!(
            output.status.success(),
            "`nginx -s reload` failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Command { begun, returned })
    }

    async fn await_listening(&self) -> anyhow::Result<()> {
        let listening = async {
            while TcpStream::connect(self.address()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, listening)
            .await
            .with_context(|| {
                let log = fs::read_to_string(self.prefix.join("error.log")).unwrap_or_default();
                format!("the plain router did not start: {log}")
            })
    }
}

impl Drop for PlainRouter {
    fn drop(&mut self) {
        // A killed master would leave its workers behind; SIGTERM makes it end them, within about
        // a second and by force if need be, so this wait has an end.
        let terminated = std::process::Command::new("kill")
            .args(["-s", "TERM", &self.nginx.id().to_string()])
            .status();
        if terminated.is_ok_and(|status| status.success()) {
            let _ = self.nginx.wait();
        }
    }
}

fn lay_out(prefix: &Path, configuration: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(prefix.join("logs"))?;
    fs::copy(configuration, prefix.join("nginx.conf")).context("cannot copy nginx.conf")?;
    Ok(())
}

/// What a switch leaves alone. `$answered` is the router's own map: the log lines stay equal.
/// `nginx.conf` names the two fit flags too; no request here ever evaluates them.
fn addresses(port: u16, blue: SocketAddr, green: SocketAddr) -> String {
    format!(
        r#"
include upstream.conf;
map $host $fit_blue {{ default 0; }}
map $host $fit_green {{ default 0; }}
map $upstream_addr $answered {{
    default "";
    ~:{blue}$ blue;
    ~:{green}$ green;
}}
server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
        proxy_pass http://model;
    }}
}}
"#,
        blue = blue.port(),
        green = green.port(),
    )
}

/// Replaces the file that a switch is about. Its figures are those of the router's own upstreams.
fn write_upstream(prefix: &Path, color: Color, server: SocketAddr) -> anyhow::Result<()> {
    let text = format!(
        r"
map $host $active {{ default {color}; }}
upstream model {{
    zone model 64k;
    server {server} max_fails=0 fail_timeout=1s;
    keepalive 128;
    keepalive_timeout 30s;
}}
",
        color = color.name(),
    );
    let path = prefix.join("upstream.conf");
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, &path))
        .context("cannot replace the upstream")
}

fn spawn(prefix: &Path) -> anyhow::Result<Child> {
    let errors = File::create(prefix.join("error.log"))?;
    std::process::Command::new("nginx")
        .args(arguments(prefix)?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .spawn()
        .context("cannot start nginx")
}

/// Those with which the deployer starts its router: as root, its workers run as root as well.
fn arguments(prefix: &Path) -> anyhow::Result<[OsString; 6]> {
    let is_root = fs::metadata(prefix)?.uid() == 0;
    let user = if is_root { " user root;" } else { "" };
    Ok([
        "-p".into(),
        prefix.into(),
        "-c".into(),
        prefix.join("nginx.conf").into(),
        "-g".into(),
        format!("daemon off;{user}").into(),
    ])
}
