//! Deployments on a real Docker engine, with the shipped images and `compose.yaml`.

use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    time::{Duration, Instant},
};

use anyhow::ensure;
use end_to_end::{
    BakeDuration, Stack, TrafficLog, VERSION_NOT_IN_IMAGE, deploy_and_roll_back_twice, get, post,
    repository,
};

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(2));
/// Long enough that a fault is detected on a slow machine too.
const LONG_BAKE: BakeDuration = BakeDuration(Duration::from_mins(1));

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test(flavor = "multi_thread")]
async fn traffic_moves_twice_without_a_failed_request() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect_exit(0, &["up"]).await?;
    let health = get(&format!("127.0.0.1:{}", stack.ports().blue()), "/health").await?;
    ensure!(health.contains(r#""engine":"onnxruntime""#), "{health}");
    deploy_and_roll_back_twice(&stack).await?;
    Ok(())
}

/// Deploys v2, and injects a fault when v2 answers clients. Fails unless the deployer rolls back.
async fn ensure_rolled_back_after(
    inject_fault: impl FnOnce(&Stack) -> Result,
) -> Result<(Stack, TrafficLog)> {
    let stack = Stack::with_containers(LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    traffic.wait_for_requests(500).await?;
    let deployer = stack.start_deployer(&["deploy", "v2"])?;
    let answered_by_v2 = async {
        while !traffic.snapshot().by_version().contains_key("v2") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), answered_by_v2).await?;
    inject_fault(&stack)?;
    let run = Stack::wait_for_exit(deployer, &["deploy", "v2"]).await?;
    let rolled_back_at = Instant::now();
    traffic.wait_for_requests(traffic.count() + 500).await?;
    let log = traffic.stop().await;

    ensure!(run.code == 20, "{run:?}");
    let afterwards = log.between(rolled_back_at, Instant::now());
    afterwards.ensure_answered_only_by("v1")?;
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["stopped"] == true, "{status}");
    Ok((stack, log))
}

#[tokio::test(flavor = "multi_thread")]
async fn crashing_release_is_rolled_back_unnoticed_by_clients() -> Result {
    // Docker restarts the crashed container at once. The deployer must still see the crash.
    let (_stack, log) =
        ensure_rolled_back_after(|stack| stack.signal_service("green", "KILL")).await?;
    log.ensure_none_failed()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_release_is_rolled_back() -> Result {
    ensure_rolled_back_after(|stack| stack.docker(&["compose", "pause", "green"]).map(drop))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn release_missing_in_image_is_refused_with_log_lines() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    let run = stack
        .expect_exit(
            10,
            &["deploy", VERSION_NOT_IN_IMAGE, "--set", "health.stall=1s"],
        )
        .await?;
    let log = traffic.stop().await;
    ensure!(
        run.stderr.contains("no version \"not-in-the-image\""),
        "{}",
        run.stderr
    );
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v1")?;
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

/// Deploys to green a container that runs this shell script in place of a server, with `health.stall` of 4 s. Returns why it was
/// refused, and how many seconds the deployer had waited at its last look before.
async fn refuse_script(script: &str) -> Result<(String, f64)> {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    // A shell that is the first process ignores SIGTERM.
    let service = format!(
        "services:\n  green:\n    image: ${{ROUTER_IMAGE:-nginx:1.30}}\n    stop_grace_period: 1s\n    entrypoint: [\"sh\", \"-c\", {}]\n",
        serde_json::to_string(script)?
    );
    stack.expect_exit(0, &["up"]).await?;
    std::fs::write(stack.path("compose.override.yaml"), service)?;
    let deploy = ["deploy", "v2", "--set", "health.stall=4s", "--json"];
    let run = stack.expect_exit(10, &deploy).await?;
    let (mut reason, mut waited) = (String::new(), 0.0);
    for line in run.stdout.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if line["gate"] == "health" && line["summary"].is_string() {
            let summary = line["summary"].as_str().unwrap_or_default();
            summary.clone_into(&mut reason);
        }
        if reason.is_empty() {
            waited = line["elapsed_seconds"].as_f64().unwrap_or(waited);
        }
    }
    Ok((reason, waited))
}

#[tokio::test(flavor = "multi_thread")]
async fn growing_memory_of_a_container_is_progress() -> Result {
    // A tmpfs counts as memory. Nothing is logged, and no port is open. Compose turns `$$` into `$`.
    let script = "for part in 1 2 3 4 5 6 7; do head -c 2000000 /dev/zero > /tmp/$$part; sleep 1.5; done; sleep 1000";
    let (reason, waited) = refuse_script(script).await?;
    ensure!(
        reason.contains("no progress for 4s (health.stall)"),
        "{reason}"
    );
    // Without progress the last look would have been before 4 s.
    ensure!(waited > 8.0, "{waited}: {reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn container_that_ends_again_and_again_is_refused_quickly() -> Result {
    let script = "echo loading part $$$$; sleep 0.3; exit 3";
    let (reason, _) = refuse_script(script).await?;
    let ended = [
        "it stopped while starting",
        "it ended and was started again",
    ];
    ensure!(ended.iter().any(|ended| reason.contains(ended)), "{reason}");
    ensure!(reason.contains("loading part"), "{reason}");
    Ok(())
}

/// The container of a color, and when it was started.
fn container_of(stack: &Stack, color: &str) -> Result<String> {
    let id = stack.docker(&["compose", "ps", "--quiet", color])?;
    stack.docker(&[
        "inspect",
        "--format",
        "{{.Id}} {{.State.StartedAt}}",
        id.trim(),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn registry_that_fails_leaves_the_idle_color_as_it_was() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    // A standby that can stand in.
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let before = (container_of(&stack, "blue")?, stack.status().await?);
    let environment = std::fs::read_to_string(stack.path(".env"))?;
    // No process listens on this port.
    let image = format!("127.0.0.1:{}/model-server:new", stack.ports().metrics());
    let run = stack
        .expect_exit(10, &["deploy", "v1", "--image", &image])
        .await?;
    ensure!(run.stderr.contains(&image), "{run:?}");
    let after = (container_of(&stack, "blue")?, stack.status().await?);
    ensure!(after.0 == before.0, "{before:?}\n{after:?}\n{run:?}");
    let fit = |status: &serde_json::Value| status["colors"][0]["fit"].clone();
    ensure!(fit(&after.1) == fit(&before.1), "{before:?}\n{after:?}");
    ensure!(
        std::fs::read_to_string(stack.path(".env"))? == environment,
        "the settings of Compose changed"
    );
    Ok(())
}

/// Stops the deployer at different moments of `docker compose up`, which takes about a second.
#[tokio::test(flavor = "multi_thread")]
async fn deployer_stopped_during_a_start_leaves_the_earlier_release() -> Result {
    let stack = Stack::with_containers(LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    for milliseconds in [0, 100, 300, 600, 1_000] {
        let deployer = stack.start_deployer(&["deploy", "v1"])?;
        stack.wait_for_phase("starting").await?;
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Stack::signal_deployer(&deployer, "TERM")?;
        let run = Stack::wait_for_exit(deployer, &["deploy", "v1"]).await?;
        ensure!([10, 20].contains(&run.code), "{milliseconds} ms: {run:?}");
        let status = stack.status().await?;
        ensure!(status["active"] == "blue", "{milliseconds} ms: {status}");
        let green = &status["colors"][1];
        ensure!(
            green["model_version"] == "v2" && green["fit"] == false,
            "{milliseconds} ms: {green} {run:?}"
        );
        let recorded = std::fs::read_to_string(stack.path(".env"))?;
        ensure!(
            recorded.contains("GREEN_VERSION=v2"),
            "{milliseconds} ms: {recorded}"
        );
    }
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_up_starts_the_deployed_releases() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    stack.expect_exit(0, &["deploy", "v1"]).await?;
    stack.expect_exit(0, &["deploy", "v1"]).await?;
    stack.docker(&["compose", "down", "--timeout", "20"])?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect_exit(0, &["up"]).await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][0]["model_version"] == "v1", "{status}");
    ensure!(status["colors"][1]["model_version"] == "v1", "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_service_removes_fit_flag_of_frozen_standby() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    let wait_for_fit = async |fit: bool| {
        let wait = async {
            while stack.status().await?["colors"][0]["fit"] != fit {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await?
    };
    wait_for_fit(true).await?;
    stack.docker(&["compose", "pause", "blue"])?;
    wait_for_fit(false).await?;
    stack.docker(&["compose", "unpause", "blue"])?;
    wait_for_fit(true).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    let metrics = format!("127.0.0.1:{}", stack.ports().metrics());
    let metrics = get(&metrics, "/metrics").await?;
    ensure!(
        metrics.contains("deployer_active{color=\"green\"} 1"),
        "{metrics}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn release_passes_every_gate() -> Result {
    const GATES: &str = "gates.run=[\"identity\", \"reachable\", \"smoke\", \"golden\", \"agreement\", \"load\", \"comparison\", \"headroom\", \"shadow\"]";

    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, Duration::from_millis(50))?;
    let settings = [
        GATES,
        "load.concurrency=100",
        "shadow.duration=5s",
        // The candidate's model is larger, and clients and other tests share the two cores.
        "load.max_p99=19s",
        "comparison.negligible=1s",
        "shadow.negligible=10s",
    ];
    let mut arguments = vec!["deploy", "v2"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let run = stack.expect_exit(0, &arguments).await?;
    traffic.stop().await.ensure_none_failed()?;
    ensure!(run.stderr.contains("shadow       pass"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_and_logs_are_closed_to_other_users() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    // With these permissions, other users could forge lines of the log.
    for directory in ["run/flags", "run/logs"] {
        std::fs::set_permissions(stack.path(directory), Permissions::from_mode(0o777))?;
    }
    stack.expect_exit(0, &["up"]).await?;
    let owner = std::fs::metadata(stack.path("compose.yaml"))?.uid();
    for (path, mode) in [
        ("run/flags", 0o750),
        ("run/logs", 0o750),
        ("run/logs/access.log", 0o640),
        ("run/logs/shadow.log", 0o640),
    ] {
        let metadata = std::fs::metadata(stack.path(path))?;
        let actual = (metadata.uid(), metadata.mode() & 0o7777);
        ensure!(actual == (owner, mode), "{path}: {actual:?}");
    }
    // A restarted router must still be able to write to its directories.
    stack.expect_exit(0, &["down"]).await?;
    stack.expect_exit(0, &["up"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn api_key_is_required_and_never_printed() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    let keys = stack.path("secrets/api-keys");
    std::fs::write(&keys, "key-of-the-deployer\n")?;
    std::fs::set_permissions(&keys, Permissions::from_mode(0o600))?;
    let owner = std::fs::metadata(&keys)?;
    let variables = stack.path(".env");
    let text = std::fs::read_to_string(&variables)?;
    let (user, group) = (owner.uid(), owner.gid());
    std::fs::write(variables, format!("{text}SERVER_USER={user}:{group}\n"))?;
    let settings = "API_KEYS_FILE=/srv/secrets/api-keys\n";
    std::fs::write(stack.path("server.env"), settings)?;
    stack.expect_exit(0, &["up"]).await?;

    let router = stack.router_address().to_string();
    let body = r#"{"text": "good"}"#;
    for (header, status) in [
        ("X-Test: no key", 401),
        ("X-API-Key: key-of-the-deployer", 200),
    ] {
        let actual = post(&router, "/predict", header, body).await?;
        ensure!(actual == status, "{header}: {actual}");
    }
    let key = "probe.api_key_file=secrets/api-keys";
    let run = stack
        .expect_exit(0, &["deploy", "v2", "--set", key])
        .await?;
    let logs = stack.docker(&["compose", "logs"])?;
    let mut outputs = vec![run.stdout, run.stderr, logs];
    for file in std::fs::read_dir(stack.path("state/reports"))? {
        outputs.push(std::fs::read_to_string(file?.path())?);
    }
    // The command lines of the containers' processes are visible on the host.
    for process in std::fs::read_dir("/proc")? {
        outputs.extend(std::fs::read_to_string(process?.path().join("cmdline")));
    }
    ensure!(
        !outputs
            .iter()
            .any(|text| text.contains("key-of-the-deployer")),
        "the API key was printed"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_served_as_in_the_example() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    std::fs::copy(
        repository().join("nginx/tls.conf.example"),
        stack.path("nginx/tls.conf"),
    )?;
    let tls = stack.path("secrets/tls");
    std::fs::create_dir(&tls)?;
    let mut create_certificate = std::process::Command::new("openssl");
    create_certificate
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"]);
    let output = create_certificate.current_dir(&tls).output()?;
    ensure!(output.status.success(), "{output:?}");
    // As the example says, but with a free port on the host.
    std::fs::write(
        stack.path("compose.override.yaml"),
        "services:\n  router:\n    ports: [\"127.0.0.1::8443\"]\n    volumes: [\"./secrets/tls:/etc/tls:ro\"]\n",
    )?;
    let key = tls.join("key.pem");
    std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;

    stack.expect_exit(0, &["up"]).await?;
    let port = stack.docker(&["compose", "port", "router", "8443"])?;
    let mut request = std::process::Command::new("curl");
    request
        .args(["--silent", "--insecure", "--max-time", "10"])
        .arg(format!("https://{}/health", port.trim()));
    let health = String::from_utf8(request.output()?.stdout)?;
    ensure!(health.contains("\"model_version\":\"v1\""), "{health}");
    Ok(())
}

/// The images of a test in one repository. They are removed when this is dropped.
struct Images<'a> {
    stack: &'a Stack,
    repository: String,
}

impl Images<'_> {
    fn tags(&self) -> Result<Vec<String>> {
        let list = ["image", "ls", "--format", "{{.Tag}}", &self.repository];
        let mut tags: Vec<String> = self
            .stack
            .docker(&list)?
            .lines()
            .map(str::to_owned)
            .collect();
        tags.sort();
        Ok(tags)
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        let _ = self.stack.docker(&["compose", "down", "--timeout", "20"]);
        for tag in self.tags().unwrap_or_default() {
            let name = format!("{}:{tag}", self.repository);
            let _ = self.stack.docker(&["image", "rm", &name]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promotion_prunes_old_images() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    let images = Images {
        stack: &stack,
        repository: format!("model-server-of-test-{}", stack.ports().router()),
    };
    let name = |tag: &str| format!("{}:{tag}", images.repository);
    stack.docker(&["tag", "model-server:latest", &name("latest")])?;
    let build_context = stack.path("empty");
    std::fs::create_dir(&build_context)?;
    for old in ["old-1", "old-2", "old-3", "old-4"] {
        std::fs::write(
            build_context.join("Dockerfile"),
            format!("FROM scratch\nLABEL old={old}\n"),
        )?;
        stack.docker(&["build", "--quiet", "--tag", &name(old), "empty"])?;
    }
    let variables = stack.path(".env");
    let mut text = std::fs::read_to_string(&variables)?;
    for color in ["BLUE", "GREEN"] {
        text.extend([color, "_IMAGE=", &name("latest"), "\n"]);
    }
    std::fs::write(variables, text)?;
    stack.expect_exit(0, &["up"]).await?;
    stack
        .expect_exit(0, &["deploy", "v2", "--set", "keep.images=2"])
        .await?;
    let tags = images.tags()?;
    // The old images were created in the same second, so it is undefined which two of them are kept.
    ensure!(tags.len() == 3 && tags[0] == "latest", "{tags:?}");
    Ok(())
}
