//! `deployer doctor` on real problems, one test for each.

mod ports;
mod router;
mod time_limits;

use std::{fs, net::TcpListener, time::Duration};

use anyhow::ensure;
use end_to_end::{BakeDuration, Stack};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));
/// A bake long enough that no time limits contradict each other. The bake of the tests is too short for that.
const CONSISTENT_TIME_LIMITS: [&str; 2] = ["--set", "bake.duration=1m"];

type Result<T = ()> = anyhow::Result<T>;

/// Runs the doctor. Returns its findings marked WRONG, each with topic and text, and with advice on a second line.
async fn wrong_findings(stack: &Stack, arguments: &[&str]) -> Result<Vec<String>> {
    let run = stack
        .run_deployer(&[&["doctor"], &CONSISTENT_TIME_LIMITS[..], arguments].concat())
        .await?;
    let lines: Vec<&str> = run.stdout.lines().collect();
    let mut findings = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("WRONG") {
            ensure!(
                lines[number + 1].contains("-> "),
                "the finding has no advice: {line}"
            );
            findings.push(format!("{line}\n{}", lines[number + 1]));
        }
    }
    ensure!(run.code == i32::from(!findings.is_empty()), "{run:?}");
    Ok(findings)
}

/// Fails unless the doctor has exactly one wrong finding, and it contains each of these texts.
async fn ensure_only_finding(stack: &Stack, arguments: &[&str], expected: &[&str]) -> Result {
    let findings = wrong_findings(stack, arguments).await?;
    ensure!(findings.len() == 1, "{findings:#?}");
    for text in expected {
        ensure!(
            findings[0].contains(text),
            "{text:?} is not in {}",
            findings[0]
        );
    }
    Ok(())
}

/// A server that sends the same response to every request. It stops when it is dropped.
struct FixedResponseServer(JoinHandle<()>);

impl FixedResponseServer {
    fn start(listener: TcpListener, header: &str, body: &str) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let length = body.len();
        let response = format!(
            "HTTP/1.1 200 OK\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Ok(Self(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(response.as_bytes()).await;
            }
        })))
    }
}

impl Drop for FixedResponseServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_wrong_after_up() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let findings = wrong_findings(&stack, &[]).await?;
    ensure!(findings.is_empty(), "{findings:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_router_and_colors_that_do_not_run() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let findings = wrong_findings(&stack, &[]).await?.join("\n");
    for expected in [
        "blue         it does not run",
        "green        it does not run",
        "router       it does not run",
        "`deployer up` starts",
    ] {
        ensure!(
            findings.contains(expected),
            "{expected:?} is not in {findings}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_advises_to_install_docker() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let empty_path = stack.path("no-such-directory");
    let arguments = ["--fleet", "compose", "doctor"];
    let doctor = stack.start_deployer_with(&arguments, &[("PATH", empty_path.as_os_str())])?;
    let run = Stack::wait_for_exit(doctor, &arguments).await?;
    for expected in [
        "WRONG  docker       no engine: cannot run `docker version",
        "-> install Docker Engine 20.10 or later",
        "whether it runs is not known",
    ] {
        ensure!(
            run.stdout.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_ended_or_hanging_color_with_log_lines() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("green", "STOP")?;
    let expected = ["green", "it runs and is not healthy", "timed out"];
    ensure_only_finding(&stack, &["--set", "probe.timeout=500ms"], &expected).await?;
    stack.signal_service("green", "CONT")?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    ensure_only_finding(
        &stack,
        &[],
        &["green", "it does not run", "its last log lines"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_a_full_disk() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let findings = wrong_findings(&stack, &["--set", "min_free_megabytes=1000000000"]).await?;
    ensure!(findings.len() == 2, "{findings:#?}");
    ensure!(findings[0].contains("MB are needed"), "{findings:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_leftovers_of_a_killed_deployer() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let kill = [("DEPLOYER_KILL_AT", "after journal starting".as_ref())];
    let deployer = stack.start_deployer_with(&["deploy", "v1"], &kill)?;
    Stack::wait_for_exit(deployer, &["deploy", "v1"]).await?;
    ensure_only_finding(
        &stack,
        &[],
        &["was interrupted; last seen starting", "`deployer recover`"],
    )
    .await?;
    stack.expect_exit(0, &["recover"]).await?;
    // The recovery stopped green, because it refused the candidate. Green still holds v2.
    stack.expect_exit(0, &["up"]).await?;

    let kill = [("DEPLOYER_KILL_AT", "after journal move".as_ref())];
    let deployer = stack.start_deployer_with(&["switch", "green"], &kill)?;
    Stack::wait_for_exit(deployer, &["switch", "green"]).await?;
    let status = stack.status().await?;
    ensure!(status["traffic_move"]["to"] == "green", "{status}");
    let expected = [
        "`deployer switch green` was interrupted",
        "`deployer recover`",
    ];
    ensure_only_finding(&stack, &[], &expected).await?;
    stack.expect_exit(0, &["recover"]).await?;
    ensure!(stack.status().await?["active"] == "green");

    fs::write(stack.path("run/flags/shadow"), "")?;
    ensure_only_finding(&stack, &[], &["shadow", "`deployer recover` ends it"]).await?;
    stack.expect_exit(0, &["recover"]).await?;
    fs::write(stack.path("state/history.jsonl"), "{\"at\":\"2026")?;
    ensure_only_finding(&stack, &[], &["history", "was changed"]).await?;
    fs::remove_file(stack.path("state/history.jsonl"))?;
    fs::remove_file(stack.path("state/history.newest.json"))?;
    fs::write(stack.path("state/journal.json"), "{")?;
    ensure_only_finding(&stack, &[], &["is not a journal"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_missing_test_inputs() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    ensure_only_finding(
        &stack,
        &["--set", "probe.inputs=no/such.jsonl"],
        &["inputs", "no/such.jsonl"],
    )
    .await
}
