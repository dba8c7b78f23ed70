//! A bare machine: a container that boots systemd, with sshd and a Docker engine of its own.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{Traffic, golden_bodies, repository};
use tempfile::TempDir;

use crate::Result;

/// The default port for clients.
pub(crate) const PORT: u16 = 8080;
const PAUSE: Duration = Duration::from_millis(20);

/// A machine that runs Debian and sshd, until dropped.
pub(crate) struct Machine {
    name: String,
    address: String,
    keys: TempDir,
}

impl Machine {
    pub(crate) fn start() -> Result<Self> {
        static STARTED: AtomicUsize = AtomicUsize::new(0);

        let keys = tempfile::tempdir()?;
        let key = keys.path().join("key");
        run(Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key))?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let name = format!("blue-green-vm-{}-{number}", std::process::id());
        // Dropped also if it does not boot.
        let mut machine = Self {
            name,
            address: String::new(),
            keys,
        };
        let mut start = Command::new(repository().join("tests/vm/machine"));
        start
            .args(["start", &machine.name])
            .arg(key.with_extension("pub"));
        run(&mut start)?.trim().clone_into(&mut machine.address);
        Ok(machine)
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Its address for `HOST`.
    pub(crate) fn host(&self) -> String {
        format!("admin@{}", self.address)
    }

    /// Runs a script there as root without SSH. The script ends at its first failure.
    pub(crate) fn inside(&self, commands: &str) -> Result<String> {
        run(Command::new("docker").args(["exec", &self.name, "bash", "-ec", commands]))
    }

    /// Waits for a condition there.
    pub(crate) fn wait_until(&self, condition: &str) -> Result {
        let wait = format!(
            "for _ in $(seq 600); do if {condition}; then exit; fi; sleep 0.2; done; exit 1"
        );
        self.inside(&wait)
            .map(drop)
            .with_context(|| format!("it never came to this: {condition}"))
    }

    /// Copies a file or directory there.
    pub(crate) fn put(&self, from: &Path, to: &str) -> Result {
        let to = format!("{}:{to}", self.name);
        run(Command::new("docker").arg("cp").arg(from).arg(to)).map(drop)
    }

    /// Copies a file or directory from there.
    pub(crate) fn take(&self, from: &str, to: &Path) -> Result {
        let from = format!("{}:{from}", self.name);
        run(Command::new("docker").arg("cp").arg(from).arg(to)).map(drop)
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.keys.path().join("key")
    }

    pub(crate) fn ssh_options(&self) -> String {
        format!(
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i {}",
            self.key().display()
        )
    }

    /// `scripts/vm` of this checkout.
    pub(crate) fn vm(&self, arguments: &[&str]) -> Command {
        self.vm_of(&repository(), arguments)
    }

    /// `scripts/vm` of another checkout.
    pub(crate) fn vm_of(&self, checkout: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(checkout.join("scripts/vm"));
        command
            .args(arguments)
            .env("HOST", self.host())
            .env("SSH_OPTIONS", self.ssh_options());
        command
    }

    /// Runs `scripts/vm`, and expects this exit code. Returns its output.
    pub(crate) fn expect_exit(&self, code: i32, arguments: &[&str]) -> Result<String> {
        expect_exit(code, &mut self.vm(arguments))
    }

    /// Adds settings for the service's deployer.
    pub(crate) fn set(&self, settings: &str) -> Result {
        let file = "/opt/blue-green/deployer.toml";
        self.inside(&format!("cat >>{file} <<'END'\n{settings}\nEND\n"))
            .map(drop)
    }

    /// Fills the disk of the deployer's files.
    pub(crate) fn fill_disk(&self) -> Result {
        let state = "/opt/blue-green/state";
        self.inside(&format!(
            "cp -a {state} /root/state && mount -t tmpfs -o size=20m tmpfs {state} && cp -a /root/state/. {state} && chown blue-green: {state}"
        ))
        .map(drop)
    }

    pub(crate) fn free_disk(&self) -> Result {
        self.inside("umount -l /opt/blue-green/state").map(drop)
    }

    fn router_address(&self) -> Result<SocketAddr> {
        Ok(format!("{}:{PORT}", self.address).parse()?)
    }

    pub(crate) fn start_traffic(&self) -> Result<Traffic> {
        Ok(Traffic::start(
            self.router_address()?,
            8,
            PAUSE,
            golden_bodies()?,
        ))
    }

    /// Waits until the router answers with this version, and fails if another one answers before.
    pub(crate) async fn wait_until_served(&self, version: &str) -> Result {
        let deadline = Instant::now() + Duration::from_mins(3);
        loop {
            let traffic = self.start_traffic()?;
            let reached = traffic.wait_for_requests(1).await;
            let log = traffic.stop().await;
            if reached.is_ok() && !log.by_version().is_empty() {
                return log.ensure_answered_only_by(version);
            }
            ensure!(
                Instant::now() < deadline,
                "{version} does not answer: {:?}",
                log.failures()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Kills every SSH connection as soon as the condition holds there.
    pub(crate) fn cut_when(&self, condition: &str) -> Result<Child> {
        self.when(condition, "pkill -KILL -f '[s]shd: admin'")
    }

    /// The same, and sshd stays down until it is started again.
    pub(crate) fn vanish_when(&self, condition: &str) -> Result<Child> {
        self.when(
            condition,
            "pkill -KILL -f '[s]shd: admin'; systemctl stop ssh",
        )
    }

    fn when(&self, condition: &str, action: &str) -> Result<Child> {
        let script = format!(
            "for _ in $(seq 60000); do if {condition}; then {action}; exit 0; fi; sleep 0.002; done; exit 1"
        );
        let exec = ["exec", &self.name, "bash", "-c", &script];
        Ok(Command::new("docker").args(exec).spawn()?)
    }

    /// Shows a deployment until it prints this, and then freezes: the connection stays open and dead.
    pub(crate) fn frozen_viewer(&self, arguments: &[&str], until: &str) -> Result<Group> {
        let mut viewer = self.vm(arguments);
        let mut viewer = Group::spawn(viewer.stderr(Stdio::piped()))?;
        let said = BufReader::new(viewer.0.stderr.take().context("no stderr")?);
        for line in said.lines() {
            if line?.contains(until) {
                viewer.signal("STOP")?;
                return Ok(viewer);
            }
        }
        anyhow::bail!("it never said {until:?}")
    }

    /// Reboots the machine.
    pub(crate) fn reboot(&mut self) -> Result {
        run(Command::new("docker").args(["restart", &self.name]))?;
        let address = [
            "inspect",
            "--format",
            "{{.NetworkSettings.IPAddress}}",
            &self.name,
        ];
        let address = run(Command::new("docker").args(address))?;
        address.trim().clone_into(&mut self.address);
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let mut stop = Command::new(repository().join("tests/vm/machine"));
        let _ = stop.args(["stop", &self.name]).output();
    }
}

/// A command with all its child processes, killed when dropped.
pub(crate) struct Group(Child);

impl Group {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(command.process_group(0).spawn()?))
    }

    fn signal(&self, signal: &str) -> Result {
        let group = format!("-{}", self.0.id());
        run(Command::new("kill").args(["-s", signal, "--", &group])).map(drop)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = self.signal("KILL");
        let _ = self.0.wait();
    }
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", words(&output));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, and expects this exit code. Returns its output.
pub(crate) fn expect_exit(code: i32, command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let said = words(&output);
    ensure!(
        output.status.code() == Some(code),
        "{command:?} ended with {}, not {code}:\n{said}",
        output.status
    );
    Ok(said)
}

pub(crate) fn words(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}
