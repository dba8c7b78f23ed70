//! Deployments on a real Docker engine, with the shipped images and the shipped compose.yaml.

use std::{
    fs::Permissions,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    time::{Duration, Instant},
};

use anyhow::ensure;
use end_to_end::{Bake, Log, NOT_IN_THE_IMAGE, Stack, get, post, repository, there_and_back_twice};

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
const SHORT: Bake = Bake(Duration::from_secs(2));
/// Long enough for a fault to show up, also on a slow machine.
const LONG: Bake = Bake(Duration::from_mins(1));

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test(flavor = "multi_thread")]
async fn traffic_moves_twice_without_a_failed_request() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect(0, &["up"]).await?;
    let health = get(&format!("127.0.0.1:{}", stack.ports().blue()), "/health").await?;
    ensure!(health.contains(r#""engine":"onnxruntime""#), "{health}");
    there_and_back_twice(&stack).await?;
    Ok(())
}

/// Deploys v2, harms it once it has the traffic, and expects a rollback.
async fn rolled_back_after(harm: impl FnOnce(&Stack) -> Result) -> Result<(Stack, Log)> {
    let stack = Stack::of_containers(LONG)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(500).await?;
    let deployer = stack.start_deployer(&["deploy", "v2"])?;
    let answered_by_v2 = async {
        while !traffic.so_far().by_version().contains_key("v2") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), answered_by_v2).await?;
    harm(&stack)?;
    let run = Stack::finish(deployer, &["deploy", "v2"]).await?;
    let after = Instant::now();
    traffic.reach(traffic.count() + 500).await?;
    let log = traffic.stop().await;

    ensure!(run.code == 20, "{run:?}");
    let now = log.between(after, Instant::now());
    now.ensure_answered_by("v1")?;
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["stopped"] == true, "{status}");
    Ok((stack, log))
}

#[tokio::test(flavor = "multi_thread")]
async fn crashing_release_is_rolled_back_unnoticed_by_clients() -> Result {
    // Docker restarts it at once: that must not count as healthy.
    let (_stack, log) = rolled_back_after(|stack| stack.signal("green", "KILL")).await?;
    log.ensure_none_failed()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_release_is_rolled_back() -> Result {
    rolled_back_after(|stack| stack.docker(&["compose", "pause", "green"]).map(drop)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn release_missing_in_image_is_refused_with_log_lines() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, PAUSE)?;
    let run = stack
        .expect(10, &["deploy", NOT_IN_THE_IMAGE, "--set", "health.tries=3"])
        .await?;
    let log = traffic.stop().await;
    ensure!(
        run.stderr.contains("no version \"not-in-the-image\""),
        "{}",
        run.stderr
    );
    log.ensure_none_failed()?;
    log.ensure_answered_by("v1")?;
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn compose_up_starts_the_deployed_releases() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.expect(0, &["deploy", "v2"]).await?;
    stack.expect(0, &["deploy", "v1"]).await?;
    stack.expect(0, &["deploy", "v1"]).await?;
    stack.docker(&["compose", "down", "--timeout", "20"])?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect(0, &["up"]).await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][0]["model_version"] == "v1", "{status}");
    ensure!(status["colors"][1]["model_version"] == "v1", "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_service_removes_fit_flag_of_frozen_standby() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect(0, &["up"]).await?;
    stack.expect(0, &["deploy", "v2"]).await?;
    let traffic = stack.traffic(8, PAUSE)?;
    let fit = async |fit: bool| {
        let wait = async {
            while stack.status().await?["colors"][0]["fit"] != fit {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await?
    };
    fit(true).await?;
    stack.docker(&["compose", "pause", "blue"])?;
    fit(false).await?;
    stack.docker(&["compose", "unpause", "blue"])?;
    fit(true).await?;
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

    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(50))?;
    let settings = [
        GATES,
        "load.concurrency=100",
        "shadow.duration=5s",
        // A larger model than the previous one, on two cores shared with clients and other tests.
        "load.max_p99=19s",
        "comparison.negligible=1s",
        "shadow.negligible=10s",
    ];
    let mut arguments = vec!["deploy", "v2"];
    arguments.extend(settings.iter().flat_map(|setting| ["--set", setting]));
    let run = stack.expect(0, &arguments).await?;
    traffic.stop().await.ensure_none_failed()?;
    ensure!(run.stderr.contains("shadow       pass"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_and_logs_are_closed_to_other_users() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    // Open to other users, who could forge lines.
    for directory in ["run/flags", "run/logs"] {
        std::fs::set_permissions(stack.path(directory), Permissions::from_mode(0o777))?;
    }
    stack.expect(0, &["up"]).await?;
    let owner = std::fs::metadata(stack.path("compose.yaml"))?.uid();
    for (path, mode) in [
        ("run/flags", 0o750),
        ("run/logs", 0o750),
        ("run/logs/access.log", 0o640),
        ("run/logs/shadow.log", 0o640),
    ] {
        let found = std::fs::metadata(stack.path(path))?;
        let is = (found.uid(), found.mode() & 0o7777);
        ensure!(is == (owner, mode), "{path}: {is:?}");
    }
    // The same containers again: the router must still be able to write where it has to.
    stack.expect(0, &["down"]).await?;
    stack.expect(0, &["up"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn api_key_is_required_and_never_printed() -> Result {
    let stack = Stack::of_containers(SHORT)?;
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
    stack.expect(0, &["up"]).await?;

    let router = stack.router().to_string();
    let body = r#"{"text": "good"}"#;
    for (header, status) in [
        ("X-Nobody: me", 401),
        ("X-API-Key: key-of-the-deployer", 200),
    ] {
        let answered = post(&router, "/predict", header, body).await?;
        ensure!(answered == status, "{header}: {answered}");
    }
    let key = "probe.api_key_file=secrets/api-keys";
    let run = stack.expect(0, &["deploy", "v2", "--set", key]).await?;
    let logs = stack.docker(&["compose", "logs"])?;
    let mut told = vec![run.stdout, run.stderr, logs];
    for file in std::fs::read_dir(stack.path("state/reports"))? {
        told.push(std::fs::read_to_string(file?.path())?);
    }
    // The containers' processes are visible on this machine too.
    for process in std::fs::read_dir("/proc")? {
        told.extend(std::fs::read_to_string(process?.path().join("cmdline")));
    }
    ensure!(
        !told.iter().any(|text| text.contains("key-of-the-deployer")),
        "the key was told"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn https_is_served_as_in_the_example() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    std::fs::copy(
        repository().join("nginx/tls.conf.example"),
        stack.path("nginx/tls.conf"),
    )?;
    let tls = stack.path("secrets/tls");
    std::fs::create_dir(&tls)?;
    let mut make = std::process::Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"])
        .args(["ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=test"])
        .args(["-keyout", "key.pem", "-out", "certificate.pem"]);
    let output = make.current_dir(&tls).output()?;
    ensure!(output.status.success(), "{output:?}");
    // As in the example, with a free port.
    std::fs::write(
        stack.path("compose.override.yaml"),
        "services:\n  router:\n    ports: [\"127.0.0.1::8443\"]\n    volumes: [\"./secrets/tls:/etc/tls:ro\"]\n",
    )?;
    let key = tls.join("key.pem");
    std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;

    stack.expect(0, &["up"]).await?;
    let port = stack.docker(&["compose", "port", "router", "8443"])?;
    let mut ask = std::process::Command::new("curl");
    ask.args(["--silent", "--insecure", "--max-time", "10"])
        .arg(format!("https://{}/health", port.trim()));
    let answer = String::from_utf8(ask.output()?.stdout)?;
    ensure!(answer.contains("\"model_version\":\"v1\""), "{answer}");
    Ok(())
}

/// Images of a test, removed when dropped.
struct Images<'a> {
    stack: &'a Stack,
    repository: String,
}

impl Images<'_> {
    fn names(&self) -> Result<Vec<String>> {
        let list = ["image", "ls", "--format", "{{.Tag}}", &self.repository];
        let mut names: Vec<String> = self
            .stack
            .docker(&list)?
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        let _ = self.stack.docker(&["compose", "down", "--timeout", "20"]);
        for tag in self.names().unwrap_or_default() {
            let name = format!("{}:{tag}", self.repository);
            let _ = self.stack.docker(&["image", "rm", &name]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn promotion_prunes_old_images() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    let images = Images {
        stack: &stack,
        repository: format!("model-server-of-test-{}", stack.ports().router()),
    };
    let name = |tag: &str| format!("{}:{tag}", images.repository);
    stack.docker(&["tag", "model-server:latest", &name("latest")])?;
    let empty = stack.path("empty");
    std::fs::create_dir(&empty)?;
    for old in ["old-1", "old-2", "old-3", "old-4"] {
        std::fs::write(
            empty.join("Dockerfile"),
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
    stack.expect(0, &["up"]).await?;
    stack
        .expect(0, &["deploy", "v2", "--set", "keep.images=2"])
        .await?;
    let names = images.names()?;
    // They were created in the same second, so Docker does not say which one is newest.
    ensure!(names.len() == 3 && names[0] == "latest", "{names:?}");
    Ok(())
}
