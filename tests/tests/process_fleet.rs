//! Deployments with the process fleet: real nginx and real model servers, without Docker.

use std::time::{Duration, Instant};

use anyhow::ensure;
use end_to_end::{BakeDuration, Stack, TrafficLog, deploy_and_roll_back_twice, repository};

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
/// Fewer connections, for tests that need traffic but no load.
const FEW_CONNECTIONS: usize = 16;
const LONG_PAUSE: Duration = Duration::from_millis(20);
const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(2));
/// Long enough that a fault is detected on a slow machine too.
const LONG_BAKE: BakeDuration = BakeDuration(Duration::from_secs(30));

type Result<T = ()> = anyhow::Result<T>;

#[tokio::test(flavor = "multi_thread")]
async fn traffic_moves_twice_without_a_failed_request() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    deploy_and_roll_back_twice(&stack).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_affects_the_next_request() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    let mut periods = Vec::new();
    for _ in 0..5 {
        for (color, version) in [("green", "v2"), ("blue", "v1")] {
            let run = stack.expect_exit(0, &["switch", color]).await?;
            traffic.wait_for_requests(traffic.count() + 300).await?;
            periods.push((version, run.returned, Instant::now()));
        }
    }
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    for (version, from, until) in periods {
        log.between(from, until).ensure_answered_only_by(version)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn next_deployment_goes_to_the_other_color() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][1]["model_version"] == "v2", "{status}");
    ensure!(status["can_roll_back"] == true, "{status}");
    stack.expect_exit(0, &["deploy", "v1"]).await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][0]["model_version"] == "v1", "{status}");
    Ok(())
}

/// Versions that must be refused, each with a part of the reason.
const REFUSED: [(&str, &str); 3] = [
    ("never-healthy", "no progress for 1s 500ms (health.stall)"),
    (
        "other-version",
        "it reports version stale, but other-version is wanted",
    ),
    (
        "fails-every-tenth",
        "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn faulty_candidates_are_refused_unnoticed_by_clients() -> Result {
    let stack = Stack::with_processes("faulty-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(FEW_CONNECTIONS, LONG_PAUSE)?;
    for (version, reason) in REFUSED {
        let run = stack
            .expect_exit(10, &["deploy", version, "--set", "health.stall=1500ms"])
            .await?;
        ensure!(run.stderr.contains(reason), "{}", run.stderr);
        let status = stack.status().await?;
        ensure!(status["active"] == "blue", "{status}");
        ensure!(status["last_deployment"]["phase"] == "refused", "{status}");
    }
    traffic.wait_for_requests(traffic.count() + 200).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v1")?;
    ensure!(
        stack.count_logged_requests("green")? == 0,
        "a client request was sent to a candidate"
    );
    Ok(())
}

/// Deploys a release that fails after the switch. Fails unless it is rolled back for one of the reasons.
///
/// Returns the record of all requests. The caller checks whether clients saw failures.
async fn ensure_rolled_back(version: &str, reasons: &[&str]) -> Result<TrafficLog> {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(FEW_CONNECTIONS, LONG_PAUSE)?;
    traffic.wait_for_requests(200).await?;
    // Short timeouts, so that a hanging release is detected and stopped within seconds.
    let short_timeouts = ["fleet.process.stop_timeout=2s", "probe.timeout=1s"];
    let short_timeouts = short_timeouts
        .iter()
        .flat_map(|setting| ["--set", *setting]);
    let arguments: Vec<&str> = ["deploy", version]
        .into_iter()
        .chain(short_timeouts)
        .collect();
    stack.expect_exit(20, &arguments).await?;
    let deployer_exited = Instant::now();
    traffic.wait_for_requests(traffic.count() + 200).await?;
    let log = traffic.stop().await;

    ensure!(
        log.by_version().contains_key(version),
        "the release answered no client: {:?}",
        log.by_version()
    );
    log.between(deployer_exited, Instant::now())
        .ensure_answered_only_by("v1")?;
    let status = stack.status().await?;
    let reason = status["last_deployment"]["reason"].to_string();
    ensure!(
        reasons.iter().any(|expected| reason.contains(expected)),
        "{reason}"
    );
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["fit"] == false, "{status}");
    ensure!(
        status["last_deployment"]["phase"] == "rolled_back",
        "{status}"
    );
    Ok(log)
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_release_is_rolled_back_unnoticed_by_clients() -> Result {
    let reasons = ["at most 5.0 % allowed", "answered 500"];
    let log = ensure_rolled_back("fails-later", &reasons).await?;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn exiting_release_is_rolled_back_unnoticed_by_clients() -> Result {
    let reasons = ["exit status: 3", "at most 5.0 % allowed"];
    let log = ensure_rolled_back("exits-later", &reasons).await?;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_release_is_rolled_back() -> Result {
    ensure_rolled_back("hangs-later", &["health check failed"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn healthy_release_without_predictions_is_rolled_back() -> Result {
    ensure_rolled_back("stops-predicting", &["test request failed"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn good_release_is_not_blamed_for_the_previous_one() -> Result {
    let stack = Stack::with_processes("faulty-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    for _ in 0..3 {
        stack.expect_exit(20, &["deploy", "fails-clients"]).await?;
        stack.expect_exit(0, &["deploy", "v2"]).await?;
        stack.expect_exit(0, &["switch", "blue"]).await?;
    }
    traffic.stop().await.ensure_none_failed()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_halts_when_both_colors_are_unhealthy() -> Result {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let deployer = stack.start_deployer(&["deploy", "fails-later"])?;
    stack.wait_for_phase("switched").await?;
    stack.signal_service("blue", "KILL")?;
    // The fault begins after a number of client requests.
    let traffic = stack.start_traffic(8, PAUSE)?;
    let run = Stack::wait_for_exit(deployer, &["deploy", "fails-later"]).await?;
    traffic.stop().await;
    ensure!(run.code == 30, "{run:?}");
    ensure!(run.stderr.contains("blue is unhealthy too"), "{run:?}");
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][1]["healthy"] == true, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_answers_when_active_color_is_killed() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    traffic.wait_for_requests(1_000).await?;
    stack.signal_service("green", "KILL")?;
    traffic.wait_for_requests(traffic.count() + 2_000).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    assert!(log.by_version()["v1"] > 1_000, "{:?}", log.by_version());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_is_refused_while_active_color_is_down() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("blue", "KILL")?;
    let run = stack.expect_exit(10, &["deploy", "v2"]).await?;
    ensure!(
        run.stderr.contains("the active color blue is not healthy"),
        "{}",
        run.stderr
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn second_deployer_exits_with_busy() -> Result {
    let stack = Stack::with_processes("model-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let first = stack.start_deployer(&["deploy", "v2", "--bake", "3s"])?;
    stack.wait_for_phase("starting").await?;
    let second = stack.expect_exit(75, &["deploy", "v1"]).await?;
    ensure!(
        second.stderr.contains("`deploy v2` by"),
        "{}",
        second.stderr
    );
    let first = Stack::wait_for_exit(first, &["deploy", "v2"]).await?;
    ensure!(first.code == 0, "{first:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn next_deployment_recovers_a_killed_one() -> Result {
    let stack = Stack::with_processes("model-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    let mut deployer = stack.start_deployer(&["deploy", "v2"])?;
    stack.wait_for_phase("switched").await?;
    deployer.kill().await?;
    let run = stack
        .expect_exit(0, &["deploy", "v2", "--bake", "2s"])
        .await?;
    let log = traffic.stop().await;
    ensure!(
        run.stderr
            .contains("was interrupted; it was last seen switched"),
        "{}",
        run.stderr
    );
    ensure!(
        run.stderr
            .contains("rolled back: the deployer was interrupted"),
        "{}",
        run.stderr
    );
    log.ensure_none_failed()?;
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn static_fleet_validates_and_switches() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    let run = stack
        .expect_exit(0, &["deploy", "v2", "--fleet", "static"])
        .await?;
    stack
        .expect_exit(0, &["rollback", "--fleet", "static"])
        .await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    ensure!(
        run.stdout.contains("promoted: v2 on green"),
        "{}",
        run.stdout
    );
    ensure!(
        log.by_version().contains_key("v2"),
        "{:?}",
        log.by_version()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_errors_are_named_before_any_change() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let run = stack.expect_exit(2, &["deploy", "v9"]).await?;
    ensure!(run.stderr.contains("no version \"v9\""), "{}", run.stderr);
    let run = stack
        .expect_exit(2, &["deploy", "v2", "--set", "smoke.requests=0"])
        .await?;
    ensure!(
        run.stderr
            .contains("smoke.requests is 0, but must be at least 1"),
        "{}",
        run.stderr
    );
    let run = stack.expect_exit(10, &["rollback"]).await?;
    ensure!(
        run.stderr
            .contains("green holds no release that was promoted"),
        "{}",
        run.stderr
    );
    std::fs::write(stack.path("deployer.toml"), "[bake]\nduratoin = \"1s\"\n")?;
    let run = stack.expect_exit(2, &["status"]).await?;
    ensure!(
        run.stderr.contains("line 2: unknown key `bake.duratoin`"),
        "{}",
        run.stderr
    );
    // Dropping the stack runs `deployer down`, which must read valid settings.
    std::fs::remove_file(stack.path("deployer.toml"))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_signal_during_bake_follows_on_interrupt() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    for (signal, on_interrupt, code, version) in [
        ("INT", "rollback", 20, "v1"),
        ("TERM", "rollback", 20, "v1"),
        ("HUP", "rollback", 20, "v1"),
        ("TERM", "continue", 0, "v2"),
    ] {
        let traffic = stack.start_traffic(8, LONG_PAUSE)?;
        let arguments = [
            "deploy",
            "v2",
            "--bake",
            "4s",
            "--on-interrupt",
            on_interrupt,
        ];
        let deployer = stack.start_deployer(&arguments)?;
        stack.wait_for_phase("switched").await?;
        Stack::signal_deployer(&deployer, signal)?;
        let run = Stack::wait_for_exit(deployer, &arguments).await?;
        let deployer_exited = Instant::now();
        traffic.wait_for_requests(traffic.count() + 200).await?;
        let log = traffic.stop().await;

        ensure!(run.code == code, "{signal}: {run:?}");
        ensure!(run.stderr.contains("stop signal"), "{signal}: {run:?}");
        log.ensure_none_failed()?;
        log.between(deployer_exited, Instant::now())
            .ensure_answered_only_by(version)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_signal_before_switch_leaves_traffic() -> Result {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let deployer =
        stack.start_deployer(&["deploy", "never-healthy", "--set", "health.stall=5m"])?;
    stack.wait_for_phase("starting").await?;
    Stack::signal_deployer(&deployer, "INT")?;
    let run = Stack::wait_for_exit(deployer, &["deploy", "never-healthy"]).await?;
    ensure!(run.code == 10, "{run:?}");
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    let green = &status["colors"][1];
    ensure!(
        green["stopped"] != true && green["fit"] == false,
        "{status}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_survives_a_killed_deployer() -> Result {
    let stack = Stack::with_processes("faulty-server", LONG_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let mut deployer = stack.start_deployer(&["deploy", "fails-later"])?;
    stack.wait_for_phase("switched").await?;
    deployer.kill().await?;
    stack.expect_exit(0, &["switch", "blue"]).await?;
    let status = stack.status().await?;
    ensure!(
        status["last_deployment"]["phase"] == "rolled_back",
        "{status}"
    );
    let run = stack
        .expect_exit(0, &["deploy", "v2", "--bake", "2s"])
        .await?;
    ensure!(!run.stderr.contains("was interrupted"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_serves_tls() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let port = stack.ports().metrics().to_string();
    let example = std::fs::read_to_string(repository().join("nginx/tls.conf.example"))?;
    let nginx = stack.path("nginx");
    // Without containers, the certificate is at another path.
    let adapted = example
        .replace("8443", &port)
        .replace("/etc/tls/certificate.pem", "tls.certificate.pem")
        .replace("/etc/tls/key.pem", "tls.key.pem");
    std::fs::write(nginx.join("tls.conf"), adapted)?;
    let openssl = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "1", "-subj", "/CN=localhost"])
        .args(["-keyout", "tls.key.pem", "-out", "tls.certificate.pem"])
        .current_dir(&nginx)
        .output()?;
    ensure!(openssl.status.success(), "{openssl:?}");
    stack.expect_exit(0, &["up"]).await?;
    let curl = std::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--cacert",
            "tls.certificate.pem",
        ])
        .args(["--json", "{\"text\": \"Not bad at all.\"}"])
        .arg(format!("https://localhost:{port}/predict"))
        .current_dir(&nginx)
        .output()?;
    let prediction: serde_json::Value = serde_json::from_slice(&curl.stdout)
        .map_err(|error| anyhow::anyhow!("{error}: {curl:?}"))?;
    ensure!(prediction["model_version"] == "v1", "{prediction}");
    Ok(())
}
