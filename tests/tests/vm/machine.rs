//! A virtual machine for tests: a container that boots systemd, with sshd and its own Docker engine.

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

/// The default port of the service for clients.
pub(crate) const PORT: u16 = 8080;
const PAUSE: Duration = Duration::from_millis(20);

/// A machine with Debian and sshd. It is removed when this is dropped.
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
        // Created before the start, so that a machine that does not boot is removed too.
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

    /// Returns the machine's name for the variable `HOST` of `scripts/vm`.
    pub(crate) fn host(&self) -> String {
        format!("admin@{}", self.address)
    }

    /// Runs a script on the machine as root, without SSH. The script ends at its first failure. Returns its output.
    pub(crate) fn run_as_root(&self, commands: &str) -> Result<String> {
        run(Command::new("docker").args(["exec", &self.name, "bash", "-ec", commands]))
    }

    /// Waits until a shell condition holds on the machine. Fails after two minutes.
    pub(crate) fn wait_until(&self, condition: &str) -> Result {
        let wait = format!(
            "for _ in $(seq 600); do if {condition}; then exit; fi; sleep 0.2; done; exit 1"
        );
        self.run_as_root(&wait)
            .map(drop)
            .with_context(|| format!("the condition did not hold in time: {condition}"))
    }

    /// Copies a file or directory to the machine.
    pub(crate) fn copy_to(&self, from: &Path, to: &str) -> Result {
        let to = format!("{}:{to}", self.name);
        run(Command::new("docker").arg("cp").arg(from).arg(to)).map(drop)
    }

    /// Copies a file or directory from the machine.
    pub(crate) fn copy_from(&self, from: &str, to: &Path) -> Result {
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

    /// Returns the command that runs `scripts/vm` of this checkout for the machine.
    pub(crate) fn vm_command(&self, arguments: &[&str]) -> Command {
        self.vm_command_of(&repository(), arguments)
    }

    /// Returns the command that runs `scripts/vm` of another checkout for the machine.
    pub(crate) fn vm_command_of(&self, checkout: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(checkout.join("scripts/vm"));
        command
            .args(arguments)
            .env("HOST", self.host())
            .env("SSH_OPTIONS", self.ssh_options());
        command
    }

    /// Runs `scripts/vm`. Fails unless it exits with `code`. Returns its output.
    pub(crate) fn expect_exit(&self, code: i32, arguments: &[&str]) -> Result<String> {
        expect_exit(code, &mut self.vm_command(arguments))
    }

    /// Puts settings into the service's `deployer.toml`, instead of the block for the shipped models.
    pub(crate) fn add_settings(&self, settings: &str) -> Result {
        let file = "/opt/blue-green/deployer.toml";
        let block = "/^# ---- For the two shipped models/,/^# ---- End of the block/d";
        self.run_as_root(&format!(
            "sed -i '{block}' {file} && cat >>{file} <<'END'\n{settings}\nEND\n"
        ))
        .map(drop)
    }

    /// Mounts a file system of 20 MB at the state directory, which is less than a deployment needs.
    pub(crate) fn fill_disk(&self) -> Result {
        let state = "/opt/blue-green/state";
        self.run_as_root(&format!(
            "cp -a {state} /root/state && mount -t tmpfs -o size=20m tmpfs {state} && cp -a /root/state/. {state} && chown blue-green: {state}"
        ))
        .map(drop)
    }

    /// Reverts [`Self::fill_disk`].
    pub(crate) fn free_disk(&self) -> Result {
        self.run_as_root("umount -l /opt/blue-green/state")
            .map(drop)
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

    /// Waits until the router answers. Fails if another version answers, or after three minutes.
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
                "{version} did not answer within three minutes: {:?}",
                log.failures()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Kills all SSH connections as soon as a shell condition holds on the machine.
    ///
    /// The returned process succeeds if it killed them.
    pub(crate) fn break_connections_when(&self, condition: &str) -> Result<Child> {
        self.run_when(condition, "pkill -KILL -f '[s]shd: admin'")
    }

    /// Kills all SSH connections and stops sshd as soon as a shell condition holds on the machine.
    pub(crate) fn stop_ssh_when(&self, condition: &str) -> Result<Child> {
        self.run_when(
            condition,
            "pkill -KILL -f '[s]shd: admin'; systemctl stop ssh",
        )
    }

    fn run_when(&self, condition: &str, action: &str) -> Result<Child> {
        let script = format!(
            "for _ in $(seq 60000); do if {condition}; then {action}; exit 0; fi; sleep 0.002; done; exit 1"
        );
        let exec = ["exec", &self.name, "bash", "-c", &script];
        Ok(Command::new("docker").args(exec).spawn()?)
    }

    /// Runs `scripts/vm` until it prints a text, and then pauses it by SIGSTOP: its connection stays open, but dead.
    pub(crate) fn pause_viewer_at(&self, arguments: &[&str], text: &str) -> Result<ProcessGroup> {
        let mut viewer = self.vm_command(arguments);
        let mut viewer = ProcessGroup::spawn(viewer.stderr(Stdio::piped()))?;
        let stderr = BufReader::new(viewer.0.stderr.take().context("stderr is not piped")?);
        for line in stderr.lines() {
            if line?.contains(text) {
                viewer.signal("STOP")?;
                return Ok(viewer);
            }
        }
        anyhow::bail!("scripts/vm ended before it printed {text:?}")
    }

    /// Reboots the machine. Its address may change.
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

/// A command with all of its child processes. They are killed when this is dropped.
pub(crate) struct ProcessGroup(Child);

impl ProcessGroup {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(command.process_group(0).spawn()?))
    }

    fn signal(&self, signal: &str) -> Result {
        let group = format!("-{}", self.0.id());
        run(Command::new("kill").args(["-s", signal, "--", &group])).map(drop)
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let _ = self.signal("KILL");
        let _ = self.0.wait();
    }
}

/// Runs a command. Fails unless it succeeds. Returns its standard output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        text_of(&output)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command. Fails unless it exits with `code`. Returns its standard output and standard error.
pub(crate) fn expect_exit(code: i32, command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let text = text_of(&output);
    ensure!(
        output.status.code() == Some(code),
        "{command:?} exited with {}, not {code}:\n{text}",
        output.status
    );
    Ok(text)
}

/// Returns standard output and standard error of a command.
pub(crate) fn text_of(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]]
        .map(String::from_utf8_lossy)
        .concat()
}
