//! Servers that generate text: each fault of a stream is refused or rolled back for its own reason, and a switch cuts no
//! stream.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack, eventually, program};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet, time::sleep};

type Result<T = ()> = anyhow::Result<T>;

const BAKE: BakeDuration = BakeDuration(Duration::from_secs(4));

fn stack(kind: &str, path: &str) -> Result<Stack> {
    let server = program("generating-server")?.to_string_lossy().into_owned();
    let stack = Stack::with_command(&[&server], BAKE)?;
    let inputs: String = (0..30)
        .map(|number| json!({"input": format!("count to {number}")}).to_string() + "\n")
        .collect();
    std::fs::write(stack.path("inputs.jsonl"), inputs)?;
    stack.replace_settings(&format!(
        r#"
[release]
model = "words"
model_root = ""

[probe]
kind = "{kind}"
predict_path = "{path}"
inputs = "inputs.jsonl"
model = "words"
max_tokens = 8

[probe.stream]
max_silence = "2s"
max_duration = "3s"

[health]
interval = "200ms"
deadline = "30s"

[gates]
run = ["identity", "reachable", "smoke"]

[smoke]
requests = 20

[load]
concurrency = 4
duration = "1s"
max_p99 = "10s"

# The release with long gaps is three times as slow between tokens, and the one that is slow to begin takes 40 ms more.
# Other tests share the two cores.
[comparison]
negligible = "3ms"
duration = "4s"

[bake]
interval = "200ms"
negligible = "1m"
"#
    ))?;
    Ok(stack)
}

/// One stream of a client.
#[derive(Debug)]
struct Stream {
    began: Instant,
    version: String,
    /// From when the server wrote each event to when the client had it.
    ages: Vec<Duration>,
    whole: bool,
}

/// What clients have received.
#[derive(Default)]
struct Log(Mutex<Vec<Result<Stream>>>);

impl Log {
    fn take(&self) -> Vec<Result<Stream>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, stream: Result<Stream>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(stream);
    }

    fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// Clients, each of which reads one stream after the other.
struct Clients {
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Clients {
    /// Starts clients whose streams have so many tokens, so many milliseconds apart.
    fn start(server: SocketAddr, count: usize, tokens: u64, gap: u64) -> Self {
        let (log, stop) = (Arc::<Log>::default(), Arc::<AtomicBool>::default());
        let mut tasks = JoinSet::new();
        for client in 0..count {
            let (log, stop) = (Arc::clone(&log), Arc::clone(&stop));
            tasks.spawn(async move {
                // The streams of different clients begin and end at different times.
                sleep(Duration::from_millis(client as u64 * 7)).await;
                while !stop.load(Ordering::Relaxed) {
                    // Streams have different lengths.
                    let tokens = tokens / 2 + fastrand::u64(0..=tokens);
                    let limit = Duration::from_mins(1);
                    let stream = tokio::time::timeout(limit, read(server, tokens, gap)).await;
                    log.push(stream.context("no end within a minute").flatten());
                }
            });
        }
        Self { log, stop, tasks }
    }

    /// Waits for the streams that are open. Returns all that have ended.
    async fn stop(mut self) -> Vec<Result<Stream>> {
        self.stop.store(true, Ordering::Relaxed);
        while self.tasks.join_next().await.is_some() {}
        self.log.take()
    }
}

/// Asks for a stream, and reads it to its end.
async fn read(server: SocketAddr, tokens: u64, gap: u64) -> Result<Stream> {
    let began = Instant::now();
    let tcp = TcpStream::connect(server).await?;
    tcp.set_nodelay(true)?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(tcp)).await?;
    tokio::spawn(driver);
    let messages = json!([{"role": "user", "content": "count"}]);
    let body = json!({"messages": messages, "stream": true, "max_tokens": tokens, "gap": gap});
    let request = Request::post("/v1/chat/completions")
        .header("host", "router")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body.to_string())))?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == 200, "status {}", response.status());
    let version = response.headers().get("x-model-version");
    let version = version.context("no version")?.to_str()?.to_owned();
    let (mut body, mut text, mut ages) = (response.into_body(), String::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.with_context(|| format!("cut: version {version}"))?;
        let part = frame.into_data().unwrap_or_default();
        text.push_str(std::str::from_utf8(&part)?);
        if let Some(age) = age(&text) {
            ages.push(age);
        }
    }
    let whole = text.ends_with("data: [DONE]\n\n");
    Ok(Stream {
        began,
        version,
        ages,
        whole,
    })
}

/// How long the last event was under way.
fn age(text: &str) -> Option<Duration> {
    let event = text.trim_end().rsplit("data: ").next()?;
    let sent = serde_json::from_str::<Value>(event).ok()?["sent"].as_u64()?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()?;
    now.checked_sub(Duration::from_micros(sent))
}

/// Deploys a release. Fails unless the deployment ends with this code, for this reason. Returns the whole reason.
async fn ensure_ends(
    stack: &Stack,
    code: i32,
    version: &str,
    arguments: &[&str],
    reason: &str,
) -> Result<String> {
    let arguments = [&["deploy", version][..], arguments].concat();
    let run = stack.expect_exit(code, &arguments).await?;
    let status = stack.status().await?;
    let told = status["last_deployment"]["reason"].as_str();
    let told = told.unwrap_or_default();
    ensure!(
        told.contains(reason),
        "{version}: {told:?}, not {reason:?}\n{}",
        run.stderr
    );
    Ok(told.to_owned())
}

/// Whether the time that `what` names is certainly above its limit, by the reason of the gate `comparison`.
fn exceeds(reason: &str, what: &str) -> Option<bool> {
    let number = |after: &str| -> Option<f64> {
        let (_, rest) = reason.split_once(what)?.1.split_once(after)?;
        rest.split(' ').next()?.parse().ok()
    };
    Some(number("sure of ")? > number("; ")?)
}

/// The setting that runs a single gate.
fn only(gate: &str) -> String {
    format!("gates.run=[\"{gate}\"]")
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_refuse_each_fault_of_a_stream_for_its_own_reason() -> Result {
    let stack = stack("stream", "/v1/chat/completions")?;
    stack.expect_exit(0, &["up"]).await?;
    for (version, gate, reason) in [
        (
            "breaks",
            "smoke",
            "the stream was cut after 3 tokens, before its finish reason and [DONE]",
        ),
        ("breaks", "load", "stream cut: "),
        (
            "never-ends",
            "smoke",
            "the stream never ended: it went on for 3s and had ",
        ),
        ("empty", "smoke", "the generated text is empty"),
        ("empty", "load", "empty text: "),
        (
            "ignores-stream",
            "smoke",
            "the answer is not a stream: its content type is \"application/json\"",
        ),
        (
            "error-event",
            "smoke",
            "reports an error in its answer after 3 tokens: the engine failed",
        ),
        ("slow-first", "comparison", "p50 to the first token "),
        ("long-gaps", "comparison", "p50 between tokens "),
    ] {
        let gates = only(gate);
        let told = ensure_ends(&stack, 10, version, &["--set", &gates], reason).await?;
        if gate == "comparison" {
            let first = exceeds(&told, "p50 to the first token");
            let gaps = exceeds(&told, "p50 between tokens");
            let is_first = version == "slow-first";
            ensure!((first, gaps) == (Some(is_first), Some(!is_first)), "{told}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_text_is_read_and_empty_text_is_refused() -> Result {
    for (kind, path) in [
        ("chat", "/v1/chat/completions"),
        ("completion", "/v1/completions"),
        ("completion-stream", "/v1/completions"),
    ] {
        let stack = stack(kind, path)?;
        stack.expect_exit(0, &["up"]).await?;
        for gate in ["smoke", "load"] {
            let gates = only(gate);
            let reason = if gate == "smoke" {
                "the generated text is empty"
            } else {
                "empty text: "
            };
            ensure_ends(&stack, 10, "empty", &["--set", &gates], reason).await?;
        }
        let gates = r#"gates.run=["smoke","load","comparison","headroom"]"#;
        let arguments = [
            "deploy",
            "v2",
            "--bake",
            "1s",
            "--set",
            gates,
            "--set",
            "comparison.negligible=1m",
        ];
        stack
            .expect_exit(0, &arguments)
            .await
            .with_context(|| kind.to_owned())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn good_release_is_promoted_and_faulty_ones_are_rolled_back_under_streams() -> Result {
    let stack = stack("stream", "/v1/chat/completions")?;
    stack.expect_exit(0, &["up"]).await?;
    let clients = Clients::start(stack.router_address(), 12, 20, 5);
    eventually("streams of clients have ended", async || {
        clients.log.count() >= 200
    })
    .await?;
    let gates = r#"gates.run=["identity","reachable","smoke","load","comparison","headroom"]"#;
    let arguments = [
        "deploy",
        "v2",
        "--set",
        gates,
        "--set",
        "comparison.negligible=1m",
    ];
    let run = stack.expect_exit(0, &arguments).await?;
    ensure!(
        format!("{run:?}").contains("longest silence of a stream"),
        "{run:?}"
    );
    for stream in clients.log.take() {
        ensure!(stream?.whole, "a stream was cut");
    }
    for (version, reason) in [
        ("breaks-for-clients", "cut"),
        ("error-event-for-clients", "the engine failed"),
    ] {
        let arguments = ["--bake", "30s", "--set", "bake.min_requests=300"];
        ensure_ends(&stack, 20, version, &arguments, reason).await?;
    }
    clients.stop().await;
    Ok(())
}

/// Switches between v1 and v2 under 200 open streams.
#[expect(
    clippy::print_stdout,
    reason = "the times are for people, and no test asserts them"
)]
async fn switch_often(switches: usize) -> Result {
    const OPEN: usize = 200;

    let stack = stack("stream", "/v1/chat/completions")?;
    stack.expect_exit(0, &["up"]).await?;
    stack
        .expect_exit(
            0,
            &[
                "deploy",
                "v2",
                "--bake",
                "1s",
                "--set",
                "bake.on_inconclusive=promote",
            ],
        )
        .await?;
    let clients = Clients::start(stack.router_address(), OPEN, 20, 100);
    let direct = ([127, 0, 0, 1], stack.ports().blue()).into();
    let direct = Clients::start(direct, 10, 20, 100);
    eventually("streams of clients have ended", async || {
        clients.log.count() >= OPEN
    })
    .await?;
    let mut moves = vec![(Instant::now(), Instant::now(), "v2")];
    for number in 0..switches {
        let (color, version) = [("blue", "v1"), ("green", "v2")][number % 2];
        let before = Instant::now();
        let run = stack.expect_exit(0, &["switch", color]).await?;
        moves.push((before, run.returned, version));
        // Streams begin between two switches.
        sleep(Duration::from_millis(300)).await;
    }
    let (routed, direct) = (clients.stop().await, direct.stop().await);
    let (mut ages, mut judged) = (Vec::new(), 0);
    let count = routed.len();
    for stream in routed {
        let stream = stream?;
        ensure!(stream.whole, "cut: {:?}", stream.version);
        let place = moves.partition_point(|(before, ..)| *before <= stream.began);
        let (_, returned, version) = moves[place.saturating_sub(1)];
        // A stream that began while the command ran, or so shortly before the next one that it may have arrived later, may
        // have either version.
        let is_clear = stream.began >= returned
            && moves
                .get(place)
                .is_none_or(|(next, ..)| stream.began + Duration::from_millis(100) < *next);
        if is_clear {
            judged += 1;
            ensure!(
                stream.version == version,
                "{} answered instead of {version}",
                stream.version
            );
        }
        ages.extend(stream.ages);
    }
    ensure!(judged > 0, "no stream began between two switches");
    let mut direct_ages = Vec::new();
    for stream in direct {
        direct_ages.extend(stream?.ages);
    }
    let p99 = |ages: &mut Vec<Duration>| {
        ages.sort_unstable();
        ages.get(ages.len() * 99 / 100).copied().unwrap_or_default()
    };
    println!(
        "{switches} switches, {count} streams, {judged} of them began between two switches; p99 of an event: {:?} through the router, {:?} directly",
        p99(&mut ages),
        p99(&mut direct_ages)
    );
    Ok(())
}

mod alone {
    #[tokio::test(flavor = "multi_thread")]
    async fn switches_under_200_streams_cut_none() -> super::Result {
        super::switch_often(6).await
    }
}

mod slow {
    #[tokio::test(flavor = "multi_thread")]
    async fn thousand_switches_under_200_streams_cut_none() -> super::Result {
        super::switch_often(1_000).await
    }
}
