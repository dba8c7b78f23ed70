//! `deployer rollback` and `deployer abort`, also while a deployment is under way.

use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack, TrafficLog, get};

const CONNECTIONS: usize = 16;
const PAUSE: Duration = Duration::from_millis(5);
/// A deployment that is not stopped does not end within a test.
const LONG_BAKE: BakeDuration = BakeDuration(Duration::from_mins(5));
const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(2));

type Result<T = ()> = anyhow::Result<T>;

/// The time from `since` to the last answer of `version`.
fn last_answer_of(log: &TrafficLog, version: &str, since: Instant) -> Option<Duration> {
    let answers = log.requests.iter();
    let answers = answers.filter(|request| request.outcome.as_deref() == Ok(version));
    let ends = answers.map(|request| request.started + request.duration);
    Some(ends.max()?.saturating_duration_since(since))
}

/// Tests that measure how long clients wait for the previous release.
mod alone {
    use super::*;

    const ONE_SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(flavor = "multi_thread")]
    async fn rollback_during_a_bake_returns_traffic_within_a_second() -> Result {
        let stack = Stack::up("model-server", LONG_BAKE).await?;
        let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
        let arguments = ["deploy", "v2", "--on-interrupt", "continue"];
        let deployer = stack.start_deployer(&arguments)?;
        stack.wait_for_phase("switched").await?;
        traffic.wait_for_requests(traffic.count() + 100).await?;

        let asked = Instant::now();
        let run = stack.expect_exit(0, &["rollback"]).await?;
        let returned = Instant::now();
        let ended = Stack::wait_for_exit(deployer, &arguments).await?;
        traffic.wait_for_requests(traffic.count() + 200).await?;
        let log = traffic.stop().await;

        ensure!(
            run.stdout.contains("rolled back: blue serves v1"),
            "{run:?}"
        );
        ensure!(ended.code == 20, "{ended:?}");
        ensure!(
            ended.stderr.contains("stopped by `deployer rollback` by"),
            "{ended:?}"
        );
        log.ensure_none_failed()?;
        let took = last_answer_of(&log, "v2", asked).context("v2 answered nothing")?;
        println!("traffic was back after {took:?}");
        ensure!(took < ONE_SECOND, "traffic was back after {took:?}");
        log.between(returned, Instant::now())
            .ensure_answered_only_by("v1")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn rollback_does_not_wait_for_a_frozen_deployer() -> Result {
        let stack = Stack::up("model-server", LONG_BAKE).await?;
        let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
        let deployer = stack.start_deployer(&["deploy", "v2"])?;
        stack.wait_for_phase("switched").await?;
        traffic.wait_for_requests(traffic.count() + 100).await?;

        Stack::signal_deployer(&deployer, "STOP")?;
        let asked = Instant::now();
        let run = stack.expect_exit(0, &["rollback"]).await?;
        let returned = Instant::now();
        Stack::signal_deployer(&deployer, "CONT")?;
        let ended = Stack::wait_for_exit(deployer, &["deploy", "v2"]).await?;
        traffic.wait_for_requests(traffic.count() + 200).await?;
        let log = traffic.stop().await;

        ensure!(
            run.stdout.contains("rolled back: blue serves v1"),
            "{run:?}"
        );
        ensure!(run.stdout.contains("this is not recorded"), "{run:?}");
        ensure!(ended.code == 20, "{ended:?}");
        log.ensure_none_failed()?;
        let took = last_answer_of(&log, "v2", asked).context("v2 answered nothing")?;
        println!("traffic was back after {took:?}");
        // 0.5 s of them pass for the frozen deployer's answer.
        ensure!(took < 2 * ONE_SECOND, "traffic was back after {took:?}");
        log.between(returned, Instant::now())
            .ensure_answered_only_by("v1")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_during_a_gate_refuses_the_candidate() -> Result {
    let stack = Stack::up("model-server", LONG_BAKE).await?;
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    let gates = r#"gates.run=["comparison"]"#;
    let arguments = [
        "deploy",
        "v2",
        "--set",
        gates,
        "--set",
        "comparison.duration=5m",
    ];
    let deployer = stack.start_deployer(&arguments)?;
    stack.wait_for_phase("healthy").await?;
    let run = stack.expect_exit(0, &["rollback"]).await?;
    let ended = Stack::wait_for_exit(deployer, &arguments).await?;
    let log = traffic.stop().await;

    ensure!(
        run.stdout
            .contains("refused: blue serves v1; traffic had not moved"),
        "{run:?}"
    );
    ensure!(ended.code == 10, "{ended:?}");
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v1")
}

#[tokio::test(flavor = "multi_thread")]
async fn abort_ends_a_deployment_and_nothing_else() -> Result {
    let stack = Stack::up("model-server", LONG_BAKE).await?;
    let run = stack.expect_exit(0, &["abort"]).await?;
    ensure!(run.stdout.contains("no deployment is under way"), "{run:?}");
    let deployer = stack.start_deployer(&["deploy", "v2"])?;
    stack.wait_for_phase("switched").await?;
    let run = stack.expect_exit(0, &["abort"]).await?;
    ensure!(
        run.stdout.contains("rolled back: blue serves v1"),
        "{run:?}"
    );
    let ended = Stack::wait_for_exit(deployer, &["deploy", "v2"]).await?;
    ensure!(ended.code == 20, "{ended:?}");
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_color_gets_its_release_back_after_a_rollback() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    // v1 waits on blue, and could take the traffic.
    let arguments = ["deploy", "v3", "--bake", "5m"];
    let deployer = stack.start_deployer(&arguments)?;
    stack.wait_for_phase("switched").await?;
    stack.expect_exit(0, &["rollback"]).await?;
    let ended = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(ended.stderr.contains("blue holds v1 again"), "{ended:?}");
    let status = stack.status().await?;
    let blue = &status["colors"][0];
    ensure!(status["active"] == "green", "{status}");
    ensure!(
        blue["model_version"] == "v1" && blue["fit"] == true,
        "{status}"
    );
    ensure!(
        status["can_roll_back"] == false,
        "nothing is left to roll back: {status}"
    );
    let run = stack.expect_exit(10, &["rollback"]).await?;
    ensure!(
        run.stderr
            .contains("`deployer rollback v1` goes back further"),
        "{run:?}"
    );
    stack.expect_exit(0, &["rollback", "v1"]).await?;
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_to_a_version_deploys_it_without_comparing() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    for version in ["v2", "v3", "v1"] {
        stack.expect_exit(0, &["deploy", version]).await?;
    }
    let gates = r#"gates.run=["identity","comparison"]"#;
    let run = stack.expect_exit(10, &["rollback", "v9"]).await?;
    ensure!(run.stderr.contains("was never promoted"), "{run:?}");
    // Blue has v3, green has v1.
    let run = stack
        .expect_exit(0, &["rollback", "v2", "--set", gates])
        .await?;
    ensure!(run.stdout.contains("promoted: v2 on blue"), "{run:?}");
    ensure!(run.stderr.contains("not to be compared with"), "{run:?}");
    // The release that a person left stands in for no other one.
    ensure!(stack.status().await?["colors"][1]["fit"] == false);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_names_the_requests_that_a_hanging_color_had_in_flight() -> Result {
    const HANGING: usize = 3;

    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let deploy = ["deploy", "v2", "--set", "bake.on_inconclusive=promote"];
    stack.expect_exit(0, &deploy).await?;
    stack.signal_service("green", "STOP")?;
    // A request of each connection hangs.
    let traffic = stack.start_traffic(HANGING, PAUSE)?;
    let control = format!("127.0.0.1:{}", stack.ports().control());
    let all_hang = async {
        // The router counts this question too.
        while get(&control, "/in-flight").await?.trim() != (HANGING + 1).to_string() {
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), all_hang).await??;
    let arguments = [
        "rollback",
        "--json",
        "--set",
        "fleet.process.stop_timeout=1s",
    ];
    let run = stack.expect_exit(0, &arguments).await?;
    let expected = "interrupted: 3 requests were repeated (POST /predict, in flight since ";
    let lines: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<serde_json::Result<_>>()?;
    let stopped = lines.iter().find(|line| line["event"] == "color_stopped");
    let stopped = stopped.with_context(|| format!("no such event: {run:?}"))?;
    let repeated = &stopped["interrupted"][0];
    ensure!(
        stopped["color"] == "green"
            && repeated["route"] == "POST /predict"
            && repeated["count"] == HANGING
            && repeated["outcome"] == "repeated",
        "{stopped}"
    );
    let history = stack.expect_exit(0, &["history"]).await?;
    ensure!(history.stdout.contains(expected), "{history:?}");
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_starts_the_release_before_after_a_killed_rollback() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    // Green holds v2 and is idle.
    let deploy = ["deploy", "v3", "--set", "bake.on_inconclusive=promote"];
    stack.expect_exit(0, &deploy).await?;
    let kill_at: [(&str, &OsStr); 1] = [("DEPLOYER_KILL_AT", "after journal move off".as_ref())];
    let rollback = stack.start_deployer_with(&["rollback"], &kill_at)?;
    Stack::wait_for_exit(rollback, &["rollback"]).await?;
    ensure!(stack.status().await?["active"] == "blue");
    for command in ["down", "up"] {
        stack.expect_exit(0, &[command]).await?;
    }
    let status = stack.status().await?;
    ensure!(status["colors"][1]["model_version"] == "v2", "{status}");
    Ok(())
}
