//! Starts servers, waits for conditions, and owns what it starts.

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use axum::Router;
use clap::Parser;
use model_server::{EngineKind, ServeArguments, ServeError, Settings, bind, serve};
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStderr, Command},
    sync::oneshot,
    task::JoinHandle,
    time,
};

/// No condition in these tests takes longer, on however slow a machine.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

pub(crate) fn shipped_models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    serve: ServeArguments,
}

/// The settings of a shipped release on a free port, with no grace, a small queue and small bodies.
pub(crate) fn settings(version: &str) -> Settings {
    let line = Line::parse_from([
        "model-server",
        "--model-version",
        version,
        "--model-root",
        shipped_models().to_str().unwrap(),
        "--port=0",
        "--inference-threads=1",
        "--queue-capacity=64",
        "--max-body-bytes=4096",
        "--grace-seconds=0",
        "--hard-stop-seconds=20",
    ]);
    line.serve.resolve().unwrap()
}

/// The settings of a model that was made for these tests, on the given engine.
pub(crate) fn fixture(name: &str, engine: EngineKind) -> Settings {
    let mut settings = settings("1");
    settings.model_root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
    name.clone_into(&mut settings.model_name);
    with(settings, engine)
}

/// The same with this engine; `scripts/onnxruntime` fetches the library.
pub(crate) fn with(mut settings: Settings, engine: EngineKind) -> Settings {
    let library = "../../target/onnxruntime/libonnxruntime.so";
    settings.engine = engine;
    settings.onnxruntime_library = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(library));
    settings
}

/// Waits for `condition` to hold, asking again and again.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let asking = async {
        let mut turns = time::interval(Duration::from_millis(5));
        while !condition().await {
            turns.tick().await;
        }
    };
    time::timeout(BOUND, asking)
        .await
        .unwrap_or_else(|_| panic!("not within {BOUND:?}: {what}"));
}

/// Whom to ask, and how.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(crate) client: Client,
    pub(crate) url: String,
}

impl Asker {
    pub(crate) fn at(port: u16) -> Self {
        // The client wants one even where nothing is encrypted; only the first call has to succeed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            client: Client::builder().timeout(BOUND).build().unwrap(),
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    pub(crate) async fn health(&self) -> (u16, Value) {
        let response = self.client.get(format!("{}/health", self.url)).send();
        let response = response.await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub(crate) async fn predict(&self, text: &str) -> Response {
        let request = self.client.post(format!("{}/predict", self.url));
        let body = serde_json::json!({ "text": text });
        request.json(&body).send().await.unwrap()
    }

    pub(crate) async fn until_healthy(&self) {
        until("healthy", || async { self.health().await.0 == 200 }).await;
    }
}

/// A server inside the test's own process.
pub(crate) struct Server {
    pub(crate) ask: Asker,
    pub(crate) port: u16,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::wrapped(settings, |router| router).await
    }

    pub(crate) async fn wrapped(
        settings: Settings,
        wrap: impl FnOnce(Router) -> Router + Send + 'static,
    ) -> Self {
        let listener = bind(settings.address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let server = Self {
            ask: Asker::at(port),
            port,
            stop,
            task: tokio::spawn(serve(listener, settings, stopped, wrap)),
        };
        server.ask.until_healthy().await;
        server
    }

    /// Tells the server to stop; the future is how it ended.
    pub(crate) fn stop(self) -> impl Future<Output = Result<(), ServeError>> {
        self.stop.send(()).unwrap();
        async {
            let ended = time::timeout(BOUND, self.task).await;
            ended.expect("ended in time").unwrap()
        }
    }
}

/// The real binary, killed when the test drops it.
pub(crate) struct Process {
    pub(crate) ask: Asker,
    child: Child,
    /// Kept open: a server that cannot log must not be what is tested.
    log: BufReader<ChildStderr>,
}

pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model-server"));
    command
        .env_clear()
        .env("MODEL_ROOT", shipped_models())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

impl Process {
    /// Starts release v1 on a free port and waits until it is healthy.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        let mut child = command()
            .envs([
                ("MODEL_VERSION", "v1"),
                ("PORT", "0"),
                ("LOG_FORMAT", "json"),
            ])
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let port = time::timeout(BOUND, port_in(&mut log)).await;
        let ask = Asker::at(port.expect("a port in the log in time"));
        ask.until_healthy().await;
        Self { ask, child, log }
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("still running").to_string();
        // The shell's own: a bare Debian has no program of this name.
        let kill = ["-c", "kill -s \"$1\" \"$2\"", "sh", name, &id];
        let sent = Command::new("sh").args(kill).status().await;
        assert!(sent.unwrap().success());
    }

    /// The most memory that the process has had at once so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let id = self.child.id().expect("still running");
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    /// What the server logs from its port on to its end.
    pub(crate) async fn log(mut self) -> Vec<Value> {
        let mut text = String::new();
        let read = time::timeout(BOUND, self.log.read_to_string(&mut text)).await;
        read.expect("the log's end in time").unwrap();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    pub(crate) async fn exit(&mut self) -> ExitStatus {
        let ended = time::timeout(BOUND, self.child.wait()).await;
        ended.expect("ended in time").unwrap()
    }
}

async fn port_in(log: &mut BufReader<ChildStderr>) -> u16 {
    let mut line = String::new();
    while log.read_line(&mut line).await.unwrap() > 0 {
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["message"] == "listening" {
            return event["port"].as_u64().unwrap().try_into().unwrap();
        }
        line.clear();
    }
    panic!("the log ended without a port");
}

/// How a command ended: its exit code, standard output and standard error.
pub(crate) async fn outcome(command: &mut Command) -> (Option<i32>, String, String) {
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let ending = async {
        tokio::try_join!(
            stdout.read_to_string(&mut out),
            stderr.read_to_string(&mut err),
        )
        .unwrap();
        child.wait().await.unwrap()
    };
    let status = time::timeout(BOUND, ending).await.expect("ended in time");
    (status.code(), out, err)
}
