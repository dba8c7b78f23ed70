//! `deployer doctor` on each fault that it names, made for real.

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
/// Time limits that agree although the tests' bake is short.
const CONSISTENT: [&str; 2] = ["--set", "bake.duration=1m"];

type Result<T = ()> = anyhow::Result<T>;

/// The findings that are wrong, each with topic, text, and advice on two lines.
async fn wrong(stack: &Stack, more: &[&str]) -> Result<Vec<String>> {
    let run = stack
        .run_deployer(&[&["doctor"], &CONSISTENT[..], more].concat())
        .await?;
    let lines: Vec<&str> = run.stdout.lines().collect();
    let mut wrong = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        if line.starts_with("WRONG") {
            ensure!(lines[number + 1].contains("-> "), "without advice: {line}");
            wrong.push(format!("{line}\n{}", lines[number + 1]));
        }
    }
    ensure!(run.code == i32::from(!wrong.is_empty()), "{run:?}");
    Ok(wrong)
}

/// Fails unless exactly one finding is wrong, and contains these words.
async fn only(stack: &Stack, more: &[&str], words: &[&str]) -> Result {
    let wrong = wrong(stack, more).await?;
    ensure!(wrong.len() == 1, "{wrong:#?}");
    for words in words {
        ensure!(wrong[0].contains(words), "{words:?} is not in {}", wrong[0]);
    }
    Ok(())
}

/// A server that gives the same response to every request, until dropped.
struct Stranger(JoinHandle<()>);

impl Stranger {
    fn answer(listener: TcpListener, header: &str, body: &str) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\n{header}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        Ok(Self(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_nothing_wrong_after_up() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let wrong = wrong(&stack, &[]).await?;
    ensure!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_router_and_colors_that_do_not_run() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let wrong = wrong(&stack, &[]).await?.join("\n");
    for words in [
        "blue         it does not run",
        "green        it does not run",
        "router       it does not run",
        "`deployer up` starts",
    ] {
        ensure!(wrong.contains(words), "{words:?} is not in {wrong}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_advises_to_install_docker() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let nowhere = stack.path("nowhere");
    let arguments = ["--fleet", "compose", "doctor"];
    let doctor = stack.start_deployer_with(&arguments, &[("PATH", nowhere.as_os_str())])?;
    let run = Stack::wait_for_exit(doctor, &arguments).await?;
    for words in [
        "WRONG  docker       no engine: cannot run `docker version",
        "-> install Docker Engine 20.10 or later",
        "whether it runs is not known",
    ] {
        ensure!(run.stdout.contains(words), "{words:?} is not in {run:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_ended_or_hanging_color_with_log_lines() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("green", "STOP")?;
    let hangs = ["green", "it runs and is not healthy", "timed out"];
    only(&stack, &["--set", "probe.timeout=500ms"], &hangs).await?;
    stack.signal_service("green", "CONT")?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    only(
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
    let wrong = wrong(&stack, &["--set", "min_free_megabytes=1000000000"]).await?;
    ensure!(wrong.len() == 2, "{wrong:#?}");
    ensure!(wrong[0].contains("MB are needed"), "{wrong:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_leftovers_of_a_killed_deployer() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let at = [("DEPLOYER_KILL_AT", "after journal starting".as_ref())];
    let deployer = stack.start_deployer_with(&["deploy", "v2"], &at)?;
    Stack::wait_for_exit(deployer, &["deploy", "v2"]).await?;
    only(
        &stack,
        &[],
        &["was interrupted; last seen starting", "`deployer recover`"],
    )
    .await?;
    stack.expect_exit(0, &["recover"]).await?;
    // A refused candidate is stopped.
    stack.expect_exit(0, &["up"]).await?;

    let at = [("DEPLOYER_KILL_AT", "after move".as_ref())];
    let deployer = stack.start_deployer_with(&["switch", "green"], &at)?;
    Stack::wait_for_exit(deployer, &["switch", "green"]).await?;
    let words = [
        "`deployer switch green` was interrupted",
        "`deployer recover`",
    ];
    only(&stack, &[], &words).await?;
    stack.expect_exit(0, &["recover"]).await?;
    ensure!(stack.status().await?["active"] == "green");

    fs::write(stack.path("run/flags/shadow"), "")?;
    only(&stack, &[], &["shadow", "`deployer recover` ends it"]).await?;
    stack.expect_exit(0, &["recover"]).await?;
    fs::write(stack.path("state/history.jsonl"), "{\"at\":\"2026")?;
    only(&stack, &[], &["history", "are torn"]).await?;
    fs::remove_file(stack.path("state/history.jsonl"))?;
    fs::write(stack.path("state/deployment.json"), "{")?;
    only(&stack, &[], &["is not a journal"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_missing_test_inputs() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    only(
        &stack,
        &["--set", "probe.inputs=no/such.jsonl"],
        &["inputs", "no/such.jsonl"],
    )
    .await
}
