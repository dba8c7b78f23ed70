//! A store, and a router with its agent before two servers, each on ports of its own.

use std::{
    fs,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use deployer::{
    adapters::HttpStore,
    cluster::{Truth, message::RouterReport},
    ports::TruthStore as _,
};
use end_to_end::{
    BakeDuration, Stack, create_store, eventually, program, send_signal, start_store,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    sync::Notify,
    task::JoinHandle,
};

use super::Result;

const TOKEN: &str = "a-token-for-the-tests";
/// How long a router serves without news of a change.
pub(crate) const FENCE: Duration = Duration::from_millis(300);
/// Bounds each wait for something that takes milliseconds on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// The store of one test. Dropping it kills the process.
pub(crate) struct Store {
    directory: TempDir,
    port: u16,
    process: Option<Child>,
    /// Has the port reserved.
    _ports: Stack,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Store {
    /// Prepares a store, and does not start it.
    pub(crate) fn prepare() -> Result<Self> {
        let ports = stack()?;
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("token"), TOKEN)?;
        create_store(directory.path())?;
        Ok(Self {
            port: ports.ports().metrics(),
            directory,
            process: None,
            _ports: ports,
        })
    }

    /// Starts a store.
    pub(crate) async fn start() -> Result<Self> {
        let mut store = Self::prepare()?;
        store.run().await?;
        Ok(store)
    }

    /// Starts the process, and waits until it answers.
    pub(crate) async fn run(&mut self) -> Result {
        let listen = format!("127.0.0.1:{}", self.port);
        let child = start_store(self.directory.path(), &listen, Stdio::inherit())?;
        self.process = Some(child);
        let client = self.client()?;
        eventually("the store answers", async || client.read().await.is_ok()).await
    }

    /// Kills the process.
    pub(crate) async fn kill(&mut self) -> Result {
        let mut process = self.process.take().context("the store does not run")?;
        Ok(process.kill().await?)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    pub(crate) fn client(&self) -> Result<HttpStore> {
        let timeout = Duration::from_secs(5);
        Ok(HttpStore::new(&self.url(), &self.token_file(), timeout)?)
    }

    /// Replaces the truth by what `change` makes of it.
    pub(crate) async fn write(&self, change: impl Fn(&Truth) -> Truth) -> Result<Truth> {
        let client = self.client()?;
        let (truth, version) = client.read().await?;
        let next = change(&truth);
        client.replace(&version, &next).await?;
        Ok(next)
    }
}

/// A router with its agent, before two servers. Dropping it kills the agent, which ends nginx.
pub(crate) struct Router {
    pub(crate) name: String,
    pub(crate) stack: Stack,
    /// [`FENCE`], unless a test sets another one.
    pub(crate) fence: Duration,
    agent: Option<Child>,
    pub(crate) blue: Server,
    green: Option<Server>,
    store: String,
    token_file: PathBuf,
}

impl Router {
    /// Prepares a router, and starts its servers only.
    pub(crate) async fn prepare(name: &str, store: &Store) -> Result<Self> {
        let stack = stack()?;
        fs::copy(
            stack.path("nginx/open.cluster.conf"),
            stack.path("nginx/open.conf"),
        )?;
        Ok(Self {
            name: name.to_owned(),
            blue: Server::start("blue", stack.ports().blue()).await?,
            green: Some(Server::start("green", stack.ports().green()).await?),
            stack,
            fence: FENCE,
            agent: None,
            store: store.url(),
            token_file: store.token_file(),
        })
    }

    /// Starts a router, and waits until it is open.
    pub(crate) async fn start(name: &str, store: &Store) -> Result<Self> {
        let mut router = Self::prepare(name, store).await?;
        router.run()?;
        router.wait_until_open().await?;
        Ok(router)
    }

    /// Lets the green server refuse connections.
    pub(crate) fn stop_green(&mut self) {
        self.green = None;
    }

    /// Starts the agent.
    pub(crate) fn run(&mut self) -> Result {
        let ports = self.stack.ports();
        let agent = format!("127.0.0.1:{}", ports.page());
        let log = fs::File::create(self.stack.path("agent.log"))?;
        let child = Command::new(program("deployer")?)
            .args(["agent", "--name", &self.name, "--listen", &agent])
            .args(["--advertise", &format!("http://{agent}")])
            .args(["--store", &self.store])
            .args(["--fence", &format!("{}ms", self.fence.as_millis())])
            .args([
                "--control",
                &format!("http://127.0.0.1:{}", ports.control()),
            ])
            .arg("--token-file")
            .arg(&self.token_file)
            .arg("--nginx-prefix")
            .arg(self.stack.path("run"))
            .arg("--nginx-configuration")
            .arg(self.stack.path("nginx/nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.agent = Some(child);
        Ok(())
    }

    /// Sends a signal (a name such as `STOP`) to the agent.
    pub(crate) fn signal(&self, signal: &str) -> Result {
        let pid = self.agent.as_ref().and_then(Child::id);
        send_signal(&pid.context("the agent has exited")?.to_string(), signal)
    }

    /// Waits until the agent has exited. Returns its code.
    pub(crate) async fn exited(&mut self) -> Result<Option<i32>> {
        let mut agent = self.agent.take().context("the agent does not run")?;
        let status = tokio::time::timeout(PATIENCE, agent.wait()).await;
        Ok(status.context("the agent does not exit")??.code())
    }

    /// Sends a client's request on a connection of its own.
    pub(crate) async fn ask(&self, path: &str) -> Result<Answer> {
        request(self.stack.ports().router(), "GET", path, "", "").await
    }

    /// Asks nginx's control port.
    pub(crate) async fn ask_control(&self, path: &str) -> Result<Answer> {
        request(self.stack.ports().control(), "GET", path, "", "").await
    }

    /// Asks the agent.
    pub(crate) async fn ask_agent(&self, method: &str, path: &str, body: &str) -> Result<Answer> {
        let token = format!("Authorization: Bearer {TOKEN}\r\n");
        request(self.stack.ports().page(), method, path, &token, body).await
    }

    /// Sends the agent a message. Returns the status and the report.
    pub(crate) async fn tell(&self, path: &str, message: &Value) -> Result<(u16, RouterReport)> {
        let answer = self.ask_agent("POST", path, &message.to_string()).await?;
        let report = serde_json::from_str(&answer.body).with_context(|| format!("{answer:?}"))?;
        Ok((answer.status, report))
    }

    /// Returns what the agent says of the router.
    pub(crate) async fn report(&self) -> Result<RouterReport> {
        let answer = self.ask_agent("GET", "/state", "").await?;
        serde_json::from_str(&answer.body).with_context(|| format!("{answer:?}"))
    }

    /// Returns the status of a client's request; 0 if nginx does not answer.
    pub(crate) async fn status(&self) -> u16 {
        self.ask("/").await.map_or(0, |answer| answer.status)
    }

    pub(crate) async fn wait_until_open(&self) -> Result {
        self.wait_for_status(200).await
    }

    /// Waits until clients get this status. Returns the time that it took.
    pub(crate) async fn wait_for_status(&self, status: u16) -> Result {
        let what = format!("{} answers {status}", self.name);
        let waited = eventually(&what, async || self.status().await == status).await;
        waited.with_context(|| fs::read_to_string(self.stack.path("agent.log")).unwrap_or_default())
    }

    /// Fails unless clients get this status all the time.
    pub(crate) async fn keeps_status(&self, status: u16, duration: Duration) -> Result {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            let answered = self.status().await;
            ensure!(answered == status, "answered {answered}, not {status}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Returns the process ID of nginx's master.
    pub(crate) fn nginx(&self) -> Result<String> {
        let pid = fs::read_to_string(self.stack.path("run/nginx.pid"))?;
        Ok(pid.trim().to_owned())
    }

    /// Returns whether the flag `open` exists.
    pub(crate) fn has_open_flag(&self) -> bool {
        self.stack.path("run/flags/open").exists()
    }
}

/// A server of one color, which answers with its name. `/slow` is answered after [`Self::finish_slow`].
pub(crate) struct Server {
    task: JoinHandle<()>,
    slow: Arc<Notify>,
    /// Notified when a slow request arrived.
    pub(crate) slow_began: Arc<Notify>,
}

impl Server {
    async fn start(color: &'static str, port: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let (slow, slow_began) = (Arc::<Notify>::default(), Arc::<Notify>::default());
        let (wait, began) = (slow.clone(), slow_began.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, color, wait.clone(), began.clone()));
            }
        });
        Ok(Self {
            task,
            slow,
            slow_began,
        })
    }

    pub(crate) fn finish_slow(&self) {
        self.slow.notify_one();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, color: &str, slow: Arc<Notify>, began: Arc<Notify>) {
    let mut head = vec![0; 16 << 10];
    let Ok(length) = stream.read(&mut head).await else {
        return;
    };
    if head[..length].starts_with(b"GET /slow ") {
        began.notify_one();
        slow.notified().await;
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{color}",
        color.len()
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn stack() -> Result<Stack> {
    Stack::with_command(&["none"], BakeDuration(Duration::from_secs(1)))
}

/// Sends a request on a connection of its own. `headers` are whole lines.
pub(crate) async fn request(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Result<Answer> {
    let exchange = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no whole answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok(Answer {
            status,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    };
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .context("no answer")?
}

/// Fails unless this is the answer of a closed router.
pub(crate) fn ensure_closed(answer: &Answer) -> Result {
    ensure!(answer.status == 503, "{answer:?}");
    for header in [
        "Retry-After: 1",
        "Connection: close",
        "Content-Type: application/json",
    ] {
        ensure!(answer.head.contains(header), "{header}: {answer:?}");
    }
    let error: Value = serde_json::from_str(&answer.body)?;
    ensure!(error["error"].is_string(), "{answer:?}");
    Ok(())
}
