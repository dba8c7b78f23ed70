//! A router and two colors in a temporary directory. The real deployer starts and stops them.

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

use crate::{PortBlock, Traffic, golden_bodies, layout, program};

/// Longer than any command takes with the tests' settings.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(3);

/// The duration of a deployment's bake (`[bake]` in `deployer.toml`).
#[derive(Debug, Clone, Copy)]
pub struct BakeDuration(pub Duration);

/// The result of one run of the deployer.
#[derive(Debug)]
pub struct DeployerRun {
    /// The exit code; -1 if a signal ended the deployer.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// When the deployer had exited.
    pub returned: Instant,
}

/// A router and two colors with their files and ports. Dropping it stops all of its processes or containers.
pub struct Stack {
    directory: TempDir,
    ports: PortBlock,
    fleet: Fleet,
}

/// The fleet that runs the services of a stack.
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
    /// Creates a stack of processes, and starts none. The program `server` serves every release: `model-server`
    /// or `faulty-server`.
    pub fn with_processes(server: &str, bake: BakeDuration) -> anyhow::Result<Self> {
        let server = program(server)?.to_string_lossy().into_owned();
        let stack = Self::with_command(&[&server], bake)?;
        layout::link_models(stack.directory.path())?;
        Ok(stack)
    }

    /// Creates a stack of processes, and starts it by `deployer up`.
    pub async fn up(server: &str, bake: BakeDuration) -> anyhow::Result<Self> {
        let stack = Self::with_processes(server, bake)?;
        stack.expect_exit(0, &["up"]).await?;
        Ok(stack)
    }

    /// Creates a stack of processes without releases, and starts none. `command` starts a server of a color.
    pub fn with_command(command: &[&str], bake: BakeDuration) -> anyhow::Result<Self> {
        let stack = Self::empty(Fleet::Process)?;
        layout::write_nginx_files(stack.directory.path(), &stack.ports)?;
        layout::write_settings(stack.directory.path(), &stack.ports, Some(command), bake)?;
        Ok(stack)
    }

    /// Creates a stack of containers, and starts none. The image `model-server` must exist.
    pub fn with_containers(bake: BakeDuration) -> anyhow::Result<Self> {
        let stack = Self::empty(Fleet::Compose)?;
        layout::write_compose_files(stack.directory.path(), &stack.ports, &stack.project()?)?;
        layout::link_models(stack.directory.path())?;
        layout::write_settings(stack.directory.path(), &stack.ports, None, bake)?;
        Ok(stack)
    }

    fn empty(fleet: Fleet) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("blue-green-").tempdir()?;
        // nginx's workers may run as another user, who needs access to the flags.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            directory,
            ports: PortBlock::reserve()?,
            fleet,
        })
    }

    /// Returns the name of the Compose project.
    fn project(&self) -> anyhow::Result<String> {
        let name = self
            .directory
            .path()
            .file_name()
            .context("the stack's directory has no name")?;
        // Compose allows lowercase letters only.
        Ok(name.to_string_lossy().to_lowercase())
    }

    /// Returns a path in the stack's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns the stack's ports.
    #[must_use]
    pub fn ports(&self) -> &PortBlock {
        &self.ports
    }

    /// Returns the router's address for clients.
    #[must_use]
    pub fn router_address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.ports.router()).into()
    }

    /// Replaces the sections of `deployer.toml` after the addresses and programs with these sections.
    pub fn replace_settings(&self, sections: &str) -> anyhow::Result<()> {
        let path = self.path("deployer.toml");
        let settings = fs::read_to_string(&path)?;
        let (addresses, _) = settings
            .split_once(layout::FAST_GATES)
            .context("deployer.toml has no section [gates]")?;
        Ok(fs::write(path, [addresses, sections].concat())?)
    }

    /// Points an upstream of the router to another port.
    ///
    /// `port` replaces green's port. The metrics port, on which no process listens, replaces blue's port too.
    pub fn redirect_upstream(&self, upstream: &str, port: u16) -> anyhow::Result<()> {
        let path = self.path("nginx/addresses.conf");
        let text = fs::read_to_string(&path)?;
        let header = format!("upstream {upstream} {{");
        let (before, rest) = text
            .split_once(&header)
            .with_context(|| format!("addresses.conf has no upstream {upstream}"))?;
        let (servers, after) = rest
            .split_once("\n}")
            .with_context(|| format!("upstream {upstream} has no closing brace"))?;
        let mut servers =
            servers.replace(&format!(":{} ", self.ports.green()), &format!(":{port} "));
        if port == self.ports.metrics() {
            servers = servers.replace(&format!(":{} ", self.ports.blue()), &format!(":{port} "));
        }
        Ok(fs::write(
            path,
            [before, &header, &servers, "\n}", after].concat(),
        )?)
    }

    /// Starts client traffic to the router with the sentences of the golden set.
    pub fn start_traffic(&self, connections: usize, pause: Duration) -> anyhow::Result<Traffic> {
        let bodies = golden_bodies()?;
        Ok(Traffic::start(
            self.router_address(),
            connections,
            pause,
            bodies,
        ))
    }

    /// The same, with clients that disconnect if they have no response after this time.
    pub fn start_impatient_traffic(
        &self,
        connections: usize,
        pause: Duration,
        timeout: Duration,
    ) -> anyhow::Result<Traffic> {
        let (router, bodies) = (self.router_address(), golden_bodies()?);
        Ok(Traffic::start_impatient(
            router,
            connections,
            pause,
            bodies,
            timeout,
        ))
    }

    /// Runs the deployer, and waits until it exits.
    pub async fn run_deployer(&self, arguments: &[&str]) -> anyhow::Result<DeployerRun> {
        let child = self.start_deployer(arguments)?;
        Self::wait_for_exit(child, arguments).await
    }

    /// Returns the command that runs the deployer with these arguments in the stack's directory.
    pub fn deployer_command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(program("deployer")?);
        command
            .args(arguments)
            .current_dir(self.directory.path())
            .env("DEPLOYER_FLEET", self.fleet.name())
            // Tests stop colors often. A short grace period is safe, because no traffic arrives at that time.
            .env("GRACE_SECONDS", "0.2");
        Ok(command)
    }

    /// Starts the deployer, and does not wait for it. Dropping the child kills it.
    pub fn start_deployer(&self, arguments: &[&str]) -> anyhow::Result<Child> {
        self.start_deployer_with(arguments, &[])
    }

    /// Starts the deployer with additional environment variables. Dropping the child kills it.
    pub fn start_deployer_with(
        &self,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> anyhow::Result<Child> {
        self.deployer_command(arguments)?
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start the deployer")
    }

    /// Sends a signal (a name such as `TERM`) to a started deployer.
    pub fn signal_deployer(deployer: &Child, signal: &str) -> anyhow::Result<()> {
        let pid = deployer
            .id()
            .context("the deployer has already exited")?
            .to_string();
        send_signal(&pid, signal)
    }

    /// Waits until a started deployer exits. Fails after three minutes.
    pub async fn wait_for_exit(child: Child, arguments: &[&str]) -> anyhow::Result<DeployerRun> {
        let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output())
            .await
            .with_context(|| {
                format!(
                    "`deployer {}` did not exit within {COMMAND_TIMEOUT:?}",
                    arguments.join(" ")
                )
            })??;
        Ok(DeployerRun {
            returned: Instant::now(),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs the deployer. Fails unless it exits with `code`.
    pub async fn expect_exit(&self, code: i32, arguments: &[&str]) -> anyhow::Result<DeployerRun> {
        let run = self.run_deployer(arguments).await?;
        anyhow::ensure!(
            run.code == code,
            "`deployer {}` exited with {}, not {code}:\n{}{}",
            arguments.join(" "),
            run.code,
            run.stderr,
            run.stdout
        );
        Ok(run)
    }

    /// Returns the output of `deployer status --json`.
    pub async fn status(&self) -> anyhow::Result<Value> {
        let run = self.expect_exit(0, &["status", "--json"]).await?;
        Ok(serde_json::from_str(&run.stdout)?)
    }

    /// Waits until the deployment has reached `phase` or a later one. Fails after 30 s.
    pub async fn wait_for_phase(&self, phase: &str) -> anyhow::Result<()> {
        const PHASES: [&str; 5] = ["planned", "starting", "healthy", "validated", "switched"];

        let wanted = PHASES
            .iter()
            .position(|known| *known == phase)
            .with_context(|| format!("{phase:?} is not a phase"))?;
        let reached = async {
            loop {
                let status = self.status().await?;
                let current = status["last_deployment"]["phase"]
                    .as_str()
                    .unwrap_or_default();
                if PHASES[wanted..].contains(&current) {
                    return anyhow::Ok(());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached)
            .await
            .with_context(|| format!("the deployment did not reach {phase} within 30 s"))?
    }

    /// Returns how many requests in the router's access log were sent while `color` was active.
    pub fn count_logged_requests(&self, color: &str) -> anyhow::Result<usize> {
        let log = fs::read_to_string(self.path("run/logs/access.log"))?;
        Ok(log.matches(&format!("\"wanted\":\"{color}\"")).count())
    }

    /// Returns the process ID of a service: from the container, or from the deployer's record of its processes.
    pub fn service_pid(&self, service: &str) -> anyhow::Result<u32> {
        if self.fleet == Fleet::Compose {
            let container = self.docker(&["compose", "ps", "--quiet", service])?;
            let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", container.trim()])?;
            return Ok(pid.trim().parse()?);
        }
        let record = self.path("state/processes").join(format!("{service}.json"));
        let record: Value = serde_json::from_str(&fs::read_to_string(record)?)?;
        let pid = record["pid"]
            .as_u64()
            .context("the record has no process ID")?;
        Ok(u32::try_from(pid)?)
    }

    /// Waits until the process of a service has exited. Fails after a minute.
    pub async fn wait_until_exited(&self, service: &str) -> anyhow::Result<()> {
        let pid = self.service_pid(service)?;
        let exited = async {
            while is_running(pid) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), exited)
            .await
            .with_context(|| format!("{service} did not exit within a minute"))
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

    /// Sends a signal (a name such as `TERM`) to the process of a service.
    pub fn signal_service(&self, service: &str, signal: &str) -> anyhow::Result<()> {
        send_signal(&self.service_pid(service)?.to_string(), signal)
    }
}

/// Sends a signal (a name such as `TERM`) to a process.
pub fn send_signal(pid: &str, signal: &str) -> anyhow::Result<()> {
    // `kill` is built into the shell. A bare Debian has no program of that name.
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
        let leftovers = match self.fleet {
            Fleet::Process => self.stop_processes(),
            Fleet::Compose => self.stop_containers(),
        };
        // A second panic would abort the test and hide the message of the first one.
        if !std::thread::panicking() {
            assert!(
                matches!(&leftovers, Ok(leftovers) if leftovers.is_empty()),
                "the stack did not stop: {leftovers:?} still runs"
            );
        }
    }
}

impl Stack {
    /// Stops every process. Returns the services whose processes still run.
    fn stop_processes(&self) -> anyhow::Result<String> {
        let services = ["blue", "green", "router"];
        for service in services {
            // A process that is paused by SIGSTOP does not react to a stop signal.
            let _ = self.signal_service(service, "CONT");
        }
        std::process::Command::new(program("deployer")?)
            .args(["--fleet", "process", "down"])
            .current_dir(self.directory.path())
            .output()?;
        let still_runs = |service: &&str| self.service_pid(service).is_ok_and(is_running);
        Ok(services.into_iter().filter(still_runs).collect())
    }

    /// Removes every container and network. Returns the containers that remain.
    fn stop_containers(&self) -> anyhow::Result<String> {
        let _ = self.docker(&["compose", "unpause"]);
        self.docker(&["compose", "down", "--timeout", "20"])?;
        let of_this_project = format!("label=com.docker.compose.project={}", self.project()?);
        self.docker(&["ps", "--all", "--quiet", "--filter", &of_this_project])
    }
}

/// Returns whether a process runs. A zombie does not.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}
