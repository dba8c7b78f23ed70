//! Starts and stops servers, sends requests, and waits for conditions.

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
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStderr, Command},
    sync::oneshot,
    task::JoinHandle,
    time,
};

/// The limit of every wait. No condition in these tests takes this long, even on a slow machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// The trace and the span of a caller, as [`traceparent`] names them.
pub(crate) const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
pub(crate) const CALLER_SPAN_ID: &str = "00f067aa0ba902b7";

/// Returns the `traceparent` header of a sampled request.
pub(crate) fn traceparent() -> String {
    format!("00-{TRACE_ID}-{CALLER_SPAN_ID}-01")
}

pub(crate) fn shipped_models() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
}

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    serve: ServeArguments,
}

/// Returns settings for a shipped release: a free port, no grace period, a small queue, and small
/// bodies.
pub(crate) fn settings(version: &str) -> Settings {
    let arguments = Arguments::parse_from([
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
    arguments.serve.resolve().unwrap()
}

/// Returns settings for a model from `tests/data/models`, served by `engine`.
pub(crate) fn fixture_settings(name: &str, engine: EngineKind) -> Settings {
    let mut settings = settings("1");
    settings.model.root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models");
    name.clone_into(&mut settings.model.name);
    with_engine(settings, engine)
}

/// Returns `settings` with `engine`. `scripts/onnxruntime` fetches ONNX Runtime's library.
pub(crate) fn with_engine(mut settings: Settings, engine: EngineKind) -> Settings {
    let library = "../../target/onnxruntime/libonnxruntime.so";
    settings.engine.kind = engine;
    settings.engine.library = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join(library));
    settings
}

/// A model root with a copy of release v1, which a test may change.
pub(crate) struct ReleaseCopy {
    pub(crate) root: TempDir,
}

impl ReleaseCopy {
    pub(crate) fn of_v1() -> Self {
        let root = tempfile::tempdir().unwrap();
        let copy = Self { root };
        fs::create_dir_all(copy.directory()).unwrap();
        for name in ["config.json", "model.onnx", "tokenizer.json"] {
            let shipped = shipped_models().join("sentiment/v1").join(name);
            fs::copy(shipped, copy.directory().join(name)).unwrap();
        }
        copy
    }

    pub(crate) fn directory(&self) -> PathBuf {
        self.root.path().join("sentiment/v1")
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut settings = settings("v1");
        self.root.path().clone_into(&mut settings.model.root);
        settings
    }
}

/// Polls `condition` until it holds. `description` names the condition in the panic message.
pub(crate) async fn wait_until<F: Future<Output = bool>>(
    description: &str,
    mut condition: impl FnMut() -> F,
) {
    let polling = async {
        let mut interval = time::interval(Duration::from_millis(5));
        while !condition().await {
            interval.tick().await;
        }
    };
    time::timeout(TIMEOUT, polling)
        .await
        .unwrap_or_else(|_| panic!("condition not met within {TIMEOUT:?}: {description}"));
}

/// An HTTP client of one server.
#[derive(Clone)]
pub(crate) struct TestClient {
    http: Client,
    pub(crate) url: String,
}

impl TestClient {
    pub(crate) fn new(port: u16) -> Self {
        // `reqwest` needs a crypto provider even for plain HTTP. Every call after the first one
        // fails, because the provider is then installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            http: Client::builder().timeout(TIMEOUT).build().unwrap(),
            url: format!("http://127.0.0.1:{port}"),
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> RequestBuilder {
        self.request(Method::POST, path)
    }

    /// Returns a request to `/predict` that is not sent yet.
    pub(crate) fn predict_request(&self, body: &Value) -> RequestBuilder {
        self.post("/predict").json(body)
    }

    pub(crate) async fn predict(&self, text: &str) -> Response {
        let request = self.predict_request(&json!({ "text": text }));
        request.send().await.unwrap()
    }

    pub(crate) async fn health(&self) -> (u16, Value) {
        status_and_json(self.get("/health").send().await.unwrap()).await
    }

    pub(crate) async fn metrics(&self) -> String {
        let response = self.get("/metrics").send().await.unwrap();
        response.text().await.unwrap()
    }

    pub(crate) async fn wait_until_healthy(&self) {
        wait_until("the server is healthy", || async {
            self.health().await.0 == 200
        })
        .await;
    }
}

pub(crate) async fn status_and_json(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Returns a body for `/predict` that keeps release v2 busy for longer than 250 ms on any machine.
pub(crate) fn slow_predict_body() -> Value {
    json!({"texts": vec!["not so fine, not so fine"; 20_000]})
}

/// Returns the value of a series, which is named with its labels as `/metrics` writes them.
pub(crate) fn sample_value(metrics: &str, series: &str) -> Option<f64> {
    let value = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(|value| value.parse().unwrap())
}

/// A server inside the test's own process.
pub(crate) struct Server {
    pub(crate) client: TestClient,
    pub(crate) port: u16,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Server {
    pub(crate) async fn start(settings: Settings) -> Self {
        Self::start_wrapped(settings, |router| router).await
    }

    pub(crate) async fn start_wrapped(
        settings: Settings,
        wrap: impl FnOnce(Router) -> Router + Send + 'static,
    ) -> Self {
        let listener = bind(settings.address.into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (stop, stopped) = oneshot::channel();
        let stopped = async {
            let _ = stopped.await;
        };
        let server = Self {
            client: TestClient::new(port),
            port,
            stop,
            task: tokio::spawn(serve(listener, settings, stopped, wrap)),
        };
        server.client.wait_until_healthy().await;
        server
    }

    /// Sends the stop signal at once. The returned future resolves to the result of `serve`.
    pub(crate) fn stop(self) -> impl Future<Output = Result<(), ServeError>> {
        self.stop.send(()).unwrap();
        async {
            let ended = time::timeout(TIMEOUT, self.task).await;
            ended.expect("the server stops in time").unwrap()
        }
    }
}

/// The `model-server` binary, killed when the test drops it.
pub(crate) struct ServerProcess {
    pub(crate) client: TestClient,
    child: Child,
    /// Kept open, so that the server can write its log.
    log: BufReader<ChildStderr>,
}

/// Returns a command that runs the `model-server` binary on the shipped models, without the test's
/// environment.
pub(crate) fn server_command() -> Command {
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

impl ServerProcess {
    /// Starts release v1 on a free port and waits until it is healthy.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        let mut child = server_command()
            .envs([
                ("MODEL_VERSION", "v1"),
                ("PORT", "0"),
                ("LOG_FORMAT", "json"),
            ])
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let port = time::timeout(TIMEOUT, read_port(&mut log)).await;
        let client = TestClient::new(port.expect("the server logs its port in time"));
        client.wait_until_healthy().await;
        Self { client, child, log }
    }

    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("the server is running").to_string();
        // The shell's builtin, because a bare Debian has no program `kill`.
        let kill = ["-c", "kill -s \"$1\" \"$2\"", "sh", name, &id];
        let sent = Command::new("sh").args(kill).status().await;
        assert!(sent.unwrap().success());
    }

    /// Returns the peak resident memory of the process, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let id = self.child.id().expect("the server is running");
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix(" kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    /// Reads the log from the line after the port to the exit of the server.
    pub(crate) async fn read_log(mut self) -> Vec<Value> {
        let mut text = String::new();
        let read = time::timeout(TIMEOUT, self.log.read_to_string(&mut text)).await;
        read.expect("the log ends in time").unwrap();
        let lines = text.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }

    pub(crate) async fn wait_for_exit(&mut self) -> ExitStatus {
        let exit = time::timeout(TIMEOUT, self.child.wait()).await;
        exit.expect("the server exits in time").unwrap()
    }
}

/// Reads the log up to the line that names the server's port.
async fn read_port(log: &mut BufReader<ChildStderr>) -> u16 {
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

/// Runs a command to its end. Returns its exit code, standard output, and standard error.
pub(crate) async fn run_to_exit(command: &mut Command) -> (Option<i32>, String, String) {
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let exit = async {
        tokio::try_join!(
            stdout.read_to_string(&mut out),
            stderr.read_to_string(&mut err),
        )
        .unwrap();
        child.wait().await.unwrap()
    };
    let status = time::timeout(TIMEOUT, exit).await;
    let status = status.expect("the command exits in time");
    (status.code(), out, err)
}
