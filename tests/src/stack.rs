//! A router and two colors in a temporary directory, run by the real deployer.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{PortBlock, Traffic, layout};

/// Longer than any command takes with the tests' settings.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(3);

/// The duration of the bake.
#[derive(Debug, Clone, Copy)]
pub struct Bake(pub Duration);

/// The result of a run of the deployer.
#[derive(Debug)]
pub struct Run {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// When it returned.
    pub returned: Instant,
}

/// A stack. Dropping it stops everything that it started.
pub struct Stack {
    directory: TempDir,
    ports: PortBlock,
    fleet: Fleet,
}

/// What runs the services of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fleet {
    Process,
    Compose,
}

impl Fleet {
    fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Compose => "compose",
        }
    }
}

impl Stack {
    /// Creates a stack of processes in which `server` serves every release: `model-server` or `faulty-server`.
    /// Starts nothing.
    pub fn of_processes(server: &str, bake: Bake) -> anyhow::Result<Self> {
        let stack = Self::empty(Fleet::Process)?;
        layout::nginx_on_ports(stack.directory.path(), &stack.ports)?;
        layout::models(stack.directory.path())?;
        layout::settings(stack.directory.path(), &stack.ports, Some(server), bake)?;
        Ok(stack)
    }

    /// Creates a stack of containers. The image `model-server` must exist.
    pub fn of_containers(bake: Bake) -> anyhow::Result<Self> {
        let stack = Self::empty(Fleet::Compose)?;
        layout::compose(stack.directory.path(), &stack.ports, &stack.project()?)?;
        layout::models(stack.directory.path())?;
        layout::settings(stack.directory.path(), &stack.ports, None, bake)?;
        Ok(stack)
    }

    fn empty(fleet: Fleet) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("blue-green-").tempdir()?;
        // nginx's workers may run as another user, who must be able to search for the flags.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            directory,
            ports: PortBlock::take()?,
            fleet,
        })
    }

    /// The name of the Compose project.
    fn project(&self) -> anyhow::Result<String> {
        let name = self
            .directory
            .path()
            .file_name()
            .context("the directory has no name")?;
        // Compose allows lowercase letters only.
        Ok(name.to_string_lossy().to_lowercase())
    }

    /// A path in the stack's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The stack's ports.
    #[must_use]
    pub fn ports(&self) -> &PortBlock {
        &self.ports
    }

    /// The router's address for clients.
    #[must_use]
    pub fn router(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports.router()).into()
    }

    /// Replaces all settings except addresses and programs by these sections of deployer.toml.
    pub fn use_settings(&self, sections: &str) -> anyhow::Result<()> {
        let path = self.path("deployer.toml");
        let settings = fs::read_to_string(&path)?;
        let (addresses, _) = settings
            .split_once(layout::FEW_GATES)
            .context("the settings name no gates")?;
        Ok(fs::write(path, [addresses, sections].concat())?)
    }

    /// Lets the router reach `port` instead of the first server of an upstream; if no process listens there,
    /// instead of all its servers.
    pub fn reach_another_in(&self, upstream: &str, port: u16) -> anyhow::Result<()> {
        let path = self.path("nginx/addresses.conf");
        let text = fs::read_to_string(&path)?;
        let begins = format!("upstream {upstream} {{");
        let (before, rest) = text.split_once(&begins).context("no such upstream")?;
        let (list, after) = rest.split_once("\n}").context("it does not end")?;
        let mut list = list.replace(&format!(":{} ", self.ports.green()), &format!(":{port} "));
        if port == self.ports.metrics() {
            list = list.replace(&format!(":{} ", self.ports.blue()), &format!(":{port} "));
        }
        Ok(fs::write(
            path,
            [before, &begins, &list, "\n}", after].concat(),
        )?)
    }

    /// Starts traffic to the router, with real sentences.
    pub fn traffic(&self, connections: usize, pause: Duration) -> anyhow::Result<Traffic> {
        let bodies = golden_bodies()?;
        Ok(Traffic::start(self.router(), connections, pause, bodies))
    }

    /// Runs the deployer to its end.
    pub async fn deployer(&self, arguments: &[&str]) -> anyhow::Result<Run> {
        let child = self.start_deployer(arguments)?;
        Self::finish(child, arguments).await
    }

    /// The deployer with these arguments, to be run in the stack's directory.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program("deployer")?);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("DEPLOYER_FLEET", self.fleet.name())
            // Tests stop colors often, and never while traffic may still arrive.
            .env("GRACE_SECONDS", "0.2");
        Ok(command)
    }

    /// Starts the deployer. Dropping the child kills it.
    pub fn start_deployer(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        self.start_deployer_with(arguments, &[])
    }

    /// The same with more environment variables.
    pub fn start_deployer_with(
        &self,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> anyhow::Result<Child> {
        self.command(arguments)?
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the deployer")
    }

    /// Sends a signal, by its name, to a started deployer.
    pub fn tell(deployer: &Child, signal: &str) -> anyhow::Result<()> {
        let pid = deployer.id().context("it has ended")?.to_string();
        send_signal(&pid, signal)
    }

    /// Waits for a started deployer.
    pub async fn finish(child: Child, arguments: &[&str]) -> anyhow::Result<Run> {
        let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output())
            .await
            .with_context(|| format!("`deployer {}` did not end", arguments.join(" ")))??;
        Ok(Run {
            returned: Instant::now(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs the deployer, and fails unless it exits with `code`.
    pub async fn expect(&self, code: i32, arguments: &[&str]) -> anyhow::Result<Run> {
        let run = self.deployer(arguments).await?;
        anyhow::ensure!(
            run.code == code,
            "`deployer {}` ended with {}, not {code}:\n{}{}",
            arguments.join(" "),
            run.code,
            run.stderr,
            run.stdout
        );
        Ok(run)
    }

    /// The output of `deployer status --json`.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let run = self.expect(0, &["status", "--json"]).await?;
        Ok(serde_json::from_str(&run.stdout)?)
    }

    /// Waits until the deployment has reached `phase` or a later one.
    pub async fn await_phase(&self, phase: &str) -> anyhow::Result<()> {
        const PHASES: [&str; 5] = ["planned", "starting", "healthy", "validated", "switched"];

        let beyond = PHASES
            .iter()
            .position(|known| *known == phase)
            .context("no such phase")?;
        let reached = async {
            loop {
                let status = self.status().await?;
                let now = status["last_deployment"]["phase"]
                    .as_str()
                    .unwrap_or_default();
                if PHASES[beyond..].contains(&now) {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .with_context(|| format!("the deployment did not reach {phase}"))?
    }

    /// The number of requests for `color` in the router's access log.
    pub fn logged_for(&self, color: &str) -> anyhow::Result<usize> {
        let log = fs::read_to_string(self.path("run/logs/access.log"))?;
        Ok(log.matches(&format!("\"wanted\":\"{color}\"")).count())
    }

    /// The process of a service: a container's first one, or the one in the deployer's record.
    pub fn process(&self, service: &str) -> anyhow::Result<u32> {
        if self.fleet == Fleet::Compose {
            let container = self.docker(&["compose", "ps", "--quiet", service])?;
            let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container.trim()])?;
            return Ok(pid.trim().parse()?);
        }
        let record = self.path("state/processes").join(format!("{service}.json"));
        let record: Value = serde_json::from_str(&fs::read_to_string(record)?)?;
        let pid = record["pid"]
            .as_u64()
            .context("the record names no process")?;
        Ok(u32::try_from(pid)?)
    }

    /// Waits until the process of a service has ended.
    pub async fn until_ended(&self, service: &str) -> anyhow::Result<()> {
        let pid = self.process(service)?;
        let ended = async {
            while runs(pid) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), ended)
            .await
            .with_context(|| format!("{service} has not ended within a minute"))
    }

    /// Runs `docker` in the stack's directory.
    pub fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = std::process::Command::new("docker")
            .args(arguments)
            .current_dir(self.directory.path())
            .output()
            .context("cannot run docker: `make test` installs it")?;
        anyhow::ensure!(
            output.status.success(),
            "`docker {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Sends a signal, by its name, to the process of a service.
    pub fn signal(&self, service: &str, signal: &str) -> anyhow::Result<()> {
        send_signal(&self.process(service)?.to_string(), signal)
    }
}

/// Sends a signal, by its name such as `TERM`, to a process.
pub fn send_signal(pid: &str, signal: &str) -> anyhow::Result<()> {
    // The shell's built-in: a bare Debian has no program `kill`.
    let output = std::process::Command::new("sh")
        .args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal, pid])
        .output()?;
    anyhow::ensure!(
        output.status.success(),
        "cannot send {signal} to process {pid}"
    );
    Ok(())
}

impl Drop for Stack {
    fn drop(&mut self) {
        let left = match self.fleet {
            Fleet::Process => self.stop_processes(),
            Fleet::Compose => self.stop_containers(),
        };
        // A panic while panicking would hide the first one.
        if !std::thread::panicking() {
            assert!(
                matches!(&left, Ok(left) if left.is_empty()),
                "left running: {left:?}"
            );
        }
    }
}

impl Stack {
    /// Kills every process and names those that survive.
    fn stop_processes(&self) -> anyhow::Result<String> {
        let services = ["blue", "green", "router"];
        for service in services {
            // A frozen process does not react to a stop signal.
            let _ = self.signal(service, "CONT");
        }
        std::process::Command::new(program("deployer")?)
            .args(["--fleet", "process", "down"])
            .current_dir(self.directory.path())
            .output()?;
        let alive = |service: &&str| self.process(service).is_ok_and(runs);
        Ok(services.into_iter().filter(alive).collect())
    }

    /// Removes every container and network, and names the containers that remain.
    fn stop_containers(&self) -> anyhow::Result<String> {
        let _ = self.docker(&["compose", "unpause"]);
        self.docker(&["compose", "down", "--timeout", "20"])?;
        let ours = format!("label=com.docker.compose.project={}", self.project()?);
        self.docker(&["ps", "--all", "--quiet", "--filter", &ours])
    }
}

/// Whether a process runs. A zombie does not.
pub(crate) fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

/// The golden set as request bodies.
pub fn golden_bodies() -> anyhow::Result<Vec<String>> {
    let golden = fs::read_to_string(repository().join("models/sentiment/golden.jsonl"))?;
    golden
        .lines()
        .map(|line| Ok(serde_json::from_str::<Value>(line)?["input"].to_string()))
        .collect()
}

/// The root of the repository.
#[must_use]
pub fn repository() -> PathBuf {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_directory
        .parent()
        .unwrap_or(crate_directory)
        .to_owned()
}

/// A program of this workspace, from the build directory of this one.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    this.ancestors()
        .skip(1)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
        .with_context(|| {
            format!("{name} is not built: run `cargo build --locked --all-targets` first")
        })
}
