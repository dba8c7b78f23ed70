//! Three routers with their agents, each on a machine of its own; store, deployer, and servers on the host.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use deployer::{
    adapters::HttpStore,
    cluster::{Truth, message::RouterReport},
    ports::TruthStore as _,
};
use end_to_end::{
    Link, Network, Traffic, create_store, eventually, golden_bodies, program, repository,
    send_signal, start_store,
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

pub(crate) type Result<T = ()> = anyhow::Result<T>;

const ROUTERS: usize = 3;
/// How long a router that promised serves without an answer.
pub(crate) const FENCE: Duration = Duration::from_millis(300);
/// Longer than any command takes with these settings.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(1);

const STORE_PORT: u16 = 8090;
const AGENT_PORT: u16 = 8084;

/// What a command did.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) output: String,
    /// When the command had returned.
    pub(crate) returned: Instant,
}

/// Three routers, a store, and two releases. Dropping it stops everything.
pub(crate) struct Cluster {
    // Fields are dropped in this order: processes, then the network in which they run.
    store: Option<Child>,
    agents: [Option<Child>; ROUTERS],
    servers: Vec<Child>,
    directory: TempDir,
    network: Network,
}

impl Cluster {
    /// Starts everything: v1 is blue and has the traffic, and v2 is green. Without root it prints that the test is left out,
    /// and returns `None`.
    pub(crate) async fn start() -> Result<Option<Self>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            eprintln!("LEFT OUT: only root can make machines of namespaces");
            return Ok(None);
        }
        let directory = tempfile::Builder::new().prefix("routers-").tempdir()?;
        let network = Network::create(ROUTERS)?;
        let mut cluster = Self {
            store: None,
            agents: [const { None }; ROUTERS],
            servers: Vec::new(),
            directory,
            network,
        };
        cluster.write_files()?;
        create_store(cluster.directory.path())?;
        cluster.start_store().await?;
        for (version, port) in [("v1", "8081"), ("v2", "8082")] {
            cluster.start_server(version, port)?;
        }
        for number in 1..=ROUTERS {
            cluster.start_agent(number)?;
        }
        for number in 1..=ROUTERS {
            cluster.wait_until_open(number).await?;
        }
        // The servers load while the agents start.
        for port in [8081, 8082] {
            let server = format!("{}:{port}", cluster.network.host(Link::Clients));
            eventually("both releases are healthy", async || {
                let answer = end_to_end::get(&server, "/health").await;
                answer.is_ok_and(|body| body.contains("\"status\":\"healthy\""))
            })
            .await?;
        }
        Ok(Some(cluster))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn router_path(&self, number: usize, name: &str) -> PathBuf {
        self.path(&format!("r{number}")).join(name)
    }

    fn write_files(&self) -> Result {
        fs::write(self.path("token"), "a-token-for-the-tests\n")?;
        let host = self.network.host(Link::Clients);
        for number in 1..=ROUTERS {
            let nginx = self.router_path(number, "nginx");
            fs::create_dir_all(&nginx)?;
            for file in fs::read_dir(repository().join("nginx"))? {
                let file = file?.path();
                let name = file.file_name().unwrap_or_default();
                if file.extension().is_some_and(|it| it == "conf") && name != "tls.conf" {
                    fs::copy(&file, nginx.join(name))?;
                }
            }
            fs::copy(nginx.join("open.cluster.conf"), nginx.join("open.conf"))?;
            // Fixed addresses need no resolver, as the file says.
            let addresses = fs::read_to_string(nginx.join("addresses.cluster.conf"))?
                .replace("resolver 127.0.0.11 valid=1s ipv6=off;\n", "")
                .replace("resolver_timeout 2s;\n", "")
                .replace("blue:8081 resolve", &format!("{host}:8081"))
                .replace("green:8082 resolve", &format!("{host}:8082"));
            fs::write(nginx.join("addresses.conf"), addresses)?;
            // Two cores do not gain from more.
            let main = nginx.join("nginx.conf");
            let text = fs::read_to_string(&main)?;
            fs::write(
                &main,
                text.replace("worker_processes auto", "worker_processes 1"),
            )?;
        }
        let models = self.path("models/sentiment");
        fs::create_dir_all(&models)?;
        let golden = repository().join("models/sentiment/golden.jsonl");
        fs::copy(golden, models.join("golden.jsonl"))?;
        for version in ["v1", "v2"] {
            let release = repository().join("models/sentiment").join(version);
            symlink(release, models.join(version))?;
        }
        let settings = format!(
            r#"
[router]
url = "http://{router}:8080"

[routers]
store = "http://{store}:{STORE_PORT}"
token_file = "token"
fence = "{fence}ms"

[blue]
url = "http://{host}:8081"

[green]
url = "http://{host}:8082"

[fleet]
kind = "static"

[gates]
run = ["identity", "reachable", "smoke"]

# Everything shares two cores.
[bake]
duration = "2s"
interval = "200ms"
negligible = "1m"
"#,
            router = self.network.machine(Link::Clients, 1),
            store = self.network.host(Link::Control),
            fence = FENCE.as_millis(),
        );
        Ok(fs::write(self.path("deployer.toml"), settings)?)
    }

    /// Starts the store, and waits until it answers.
    pub(crate) async fn start_store(&mut self) -> Result {
        let listen = format!("{}:{STORE_PORT}", self.network.host(Link::Control));
        let child = start_store(self.directory.path(), &listen, self.log("store")?.into())?;
        self.store = Some(child);
        let client = self.store_client()?;
        eventually("the store answers", async || client.read().await.is_ok()).await
    }

    /// Kills the store.
    pub(crate) async fn kill_store(&mut self) -> Result {
        let mut store = self.store.take().context("the store does not run")?;
        Ok(store.kill().await?)
    }

    /// Sends a signal to the store.
    pub(crate) fn signal_store(&self, signal: &str) -> Result {
        let store = self.store.as_ref().and_then(Child::id);
        send_signal(
            &store.context("the store does not run")?.to_string(),
            signal,
        )
    }

    fn store_client(&self) -> Result<HttpStore> {
        let url = format!("http://{}:{STORE_PORT}", self.network.host(Link::Control));
        Ok(HttpStore::new(
            &url,
            &self.path("token"),
            Duration::from_secs(5),
        )?)
    }

    /// Returns what the store holds.
    pub(crate) async fn truth(&self) -> Result<Truth> {
        Ok(self.store_client()?.read().await?.0)
    }

    fn start_server(&mut self, version: &str, port: &str) -> Result {
        let child = Command::new(program("model-server")?)
            .env("HOST", self.network.host(Link::Clients).to_string())
            .env("PORT", port)
            .env("MODEL_VERSION", version)
            .env("MODEL_ROOT", repository().join("models"))
            .env("REQUEST_LOG", "failures")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log(version)?)
            .kill_on_drop(true)
            .spawn()?;
        self.servers.push(child);
        Ok(())
    }

    /// Starts the agent of a router, which starts nginx.
    pub(crate) fn start_agent(&mut self, number: usize) -> Result {
        let machine = self.network.machine(Link::Control, number);
        let command = self.network.command_in(number, &program("deployer")?);
        let child = Command::from(command)
            .args(["agent", "--name", &format!("r{number}")])
            .args(["--listen", &format!("{machine}:{AGENT_PORT}")])
            .args(["--advertise", &format!("http://{machine}:{AGENT_PORT}")])
            .args([
                "--store",
                &format!("http://{}:{STORE_PORT}", self.network.host(Link::Control)),
            ])
            .args(["--control", "http://127.0.0.1:8083"])
            .args(["--fence", &format!("{}ms", FENCE.as_millis())])
            .arg("--token-file")
            .arg(self.path("token"))
            .arg("--nginx-prefix")
            .arg(self.router_path(number, "run"))
            .arg("--nginx-configuration")
            .arg(self.router_path(number, "nginx/nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.log(&format!("r{number}"))?)
            .kill_on_drop(true)
            .spawn()?;
        self.agents[number - 1] = Some(child);
        Ok(())
    }

    /// Makes blue active at one router by hand, as docs/cluster.md says.
    pub(crate) fn roll_back_by_hand(&self, number: usize) -> Result {
        let flags = self.router_path(number, "run/flags");
        fs::remove_file(flags.join("fit-green"))?;
        Ok(fs::remove_file(flags.join("green"))?)
    }

    /// Sends a signal (a name such as `STOP`) to the agent of a router.
    pub(crate) fn signal_agent(&self, number: usize, signal: &str) -> Result {
        let agent = self.agents[number - 1].as_ref().and_then(Child::id);
        send_signal(&agent.context("the agent has exited")?.to_string(), signal)
    }

    /// Kills the agent of a router.
    pub(crate) async fn kill_agent(&mut self, number: usize) -> Result {
        let mut agent = self.agents[number - 1]
            .take()
            .context("the agent does not run")?;
        Ok(agent.kill().await?)
    }

    /// Cuts a router off from store and deployer, or ends that. Clients and servers still reach it.
    pub(crate) fn set_plugged(&self, number: usize, plugged: bool) -> Result {
        self.network.set_plugged(number, Link::Control, plugged)
    }

    /// Returns the master process of a router's nginx.
    pub(crate) fn nginx(&self, number: usize) -> Result<String> {
        let pid = fs::read_to_string(self.router_path(number, "run/nginx.pid"))?;
        Ok(pid.trim().to_owned())
    }

    /// Starts the deployer, and does not wait for it. Dropping the child kills it.
    pub(crate) fn start_deployer(&self, arguments: &[&str]) -> Result<Child> {
        Ok(Command::new(program("deployer")?)
            .args(arguments)
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?)
    }

    /// Runs the deployer until it exits.
    pub(crate) async fn deployer(&self, arguments: &[&str]) -> Result<Run> {
        let child = self.start_deployer(arguments)?;
        let output = tokio::time::timeout(COMMAND_TIMEOUT, child.wait_with_output())
            .await
            .with_context(|| format!("`deployer {}` did not exit", arguments.join(" ")))??;
        let returned = Instant::now();
        let text =
            [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
        Ok(Run {
            code: output.status.code().unwrap_or(-1),
            output: text.concat(),
            returned,
        })
    }

    /// Runs the deployer. Fails unless it exits with `code`.
    pub(crate) async fn expect_exit(&self, code: i32, arguments: &[&str]) -> Result<Run> {
        let run = self.deployer(arguments).await?;
        let command = arguments.join(" ");
        ensure!(
            run.code == code,
            "`deployer {command}` exited with {run:?}, not {code}"
        );
        Ok(run)
    }

    /// Starts clients of one router.
    pub(crate) fn start_traffic(
        &self,
        number: usize,
        connections: usize,
        pause: Duration,
    ) -> Result<Traffic> {
        let router: SocketAddr = (self.network.machine(Link::Clients, number), 8080).into();
        Ok(Traffic::start(router, connections, pause, golden_bodies()?))
    }

    /// Returns the status and the release of a router's answer to a client on its own machine; `None` if it does not
    /// answer.
    pub(crate) async fn answer_within(&self, number: usize) -> Result<Option<(u16, String)>> {
        let mut command = Command::from(self.network.command_in(number, Path::new("curl")));
        let output = command
            .args([
                "--silent",
                "--max-time",
                "5",
                "--write-out",
                "\n%{http_code}",
            ])
            .arg("http://127.0.0.1:8080/health")
            .output()
            .await?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((body, status)) = text.rsplit_once('\n') else {
            return Ok(None);
        };
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
        let version = body["model_version"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Ok(Some((status.parse()?, version)))
    }

    /// Waits until a router answers a client on its own machine like this.
    pub(crate) async fn wait_for_answer(
        &self,
        number: usize,
        status: u16,
        version: &str,
    ) -> Result {
        let what = format!("r{number} answers {status} {version}");
        let wanted = Some((status, version.to_owned()));
        let answered = eventually(&what, async || {
            self.answer_within(number)
                .await
                .is_ok_and(|it| it == wanted)
        });
        answered.await.with_context(|| {
            fs::read_to_string(self.path(&format!("r{number}.log"))).unwrap_or_default()
        })
    }

    async fn wait_until_open(&self, number: usize) -> Result {
        let what = format!("r{number} is open");
        let waited = eventually(&what, async || {
            self.report(number).await.is_ok_and(|report| report.open)
        });
        waited.await.with_context(|| {
            fs::read_to_string(self.path(&format!("r{number}.log"))).unwrap_or_default()
        })
    }

    /// Returns what an agent says of its router.
    pub(crate) async fn report(&self, number: usize) -> Result<RouterReport> {
        let url = format!(
            "http://{}:{AGENT_PORT}/state",
            self.network.machine(Link::Control, number)
        );
        let output = Command::new("curl")
            .args(["--silent", "--max-time", "5", "--header"])
            .arg("Authorization: Bearer a-token-for-the-tests")
            .arg(url)
            .output()
            .await?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn log(&self, name: &str) -> Result<fs::File> {
        let path = self.path(&format!("{name}.log"));
        Ok(fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for agent in &mut self.agents {
            agent.take();
        }
        for number in 1..=ROUTERS {
            // What an agent started, such as nginx, also if the agent was killed.
            for process in self.network.processes(number).unwrap_or_default() {
                let _ = send_signal(&process, "KILL");
            }
        }
    }
}
