//! `make demo`: a release is promoted under live traffic, a bad one is rolled back by itself, and one is
//! refused.
//!
//! No verdict depends on the speed of the machine: [`SETTINGS`] leave out everything that judges time.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use end_to_end::{Bake, Log, Stack, Traffic, post_for_body, repository};

/// Few enough to leave room on two busy cores.
const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// A sentence on which the releases disagree: v2 understands "not bad" as a phrase.
const SENTENCE: &str = r#"{"text":"Not bad at all."}"#;
/// Longer than any command takes on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(5);

/// Timeouts only bound waits here, and no gate compares latencies.
const SETTINGS: &str = r#"
[gates]
run = ["identity", "reachable", "smoke", "golden", "agreement", "load"]

[probe]
timeout = "60s"

[health]
tries = 400
interval = "300ms"

[load]
concurrency = 32
duration = "2s"
timeout = "60s"
max_p99 = "60s"

[bake]
duration = "8s"
interval = "500ms"
negligible = "1h"
"#;

#[tokio::main]
async fn main() -> ExitCode {
    // An interrupted demonstration still stops everything that it started.
    let run = tokio::select! {
        run = run() => run,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("it was interrupted")),
    };
    match run {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nThe demonstration failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let began = Instant::now();
    let stack = Stack::of_processes("faulty-server", Bake(Duration::ZERO))?;
    stack.use_settings(SETTINGS)?;
    say(&format!(
        "Blue, green, and nginx run as processes; clients use http://{}.\n\
         Left out here, because they depend on how fast this machine is: the gates comparison and headroom, \
         the load gate's p99, and the latency rule after the switch.",
        stack.router()
    ));

    heading("1. Blue serves v1, green is idle");
    step(&stack, 0, &["up"]).await?;
    show_answer(stack.ports().router()).await?;

    say(&format!(
        "\n{CONNECTIONS} clients send sentences from now on, each over one keep-alive connection."
    ));
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(100).await?;
    let steps = with_traffic(&stack, &traffic).await;
    let log = traffic.stop().await;
    print_counts(&log);
    let reports = keep_reports(&stack);
    steps?;

    ensure!(log.failures().is_empty(), "some requests failed");
    for version in ["v1", "v2"] {
        ensure!(
            log.by_version().contains_key(version),
            "{version} never answered a client"
        );
    }
    say(&format!(
        "\nNo request failed, and nothing is left running ({} s).\n\nReports:",
        began.elapsed().as_secs()
    ));
    let reports = reports?;
    for report in &reports {
        say(&format!("  {}", report.display()));
    }
    say(
        "\nOpen the first report in a browser to see the evidence for v2; then try `make up FLEET=process` and \
         `make deploy VERSION=v2 FLEET=process` (without FLEET with Docker).",
    );
    Ok(())
}

async fn with_traffic(stack: &Stack, traffic: &Traffic) -> anyhow::Result<()> {
    heading("2. v2 goes to green, is proven there, and takes all traffic");
    step(stack, 0, &["deploy", "v2"]).await?;
    show_answer(stack.ports().router()).await?;

    heading("3. A bad release passes every gate, fails its first clients, and is rolled back");
    say(
        "Its version is fails-clients. v2 stands in for it, so that its clients get answers all the same.",
    );
    step(stack, 20, &["deploy", "fails-clients"]).await?;

    heading("4. A bad release is refused: it calls every text negative");
    step(stack, 10, &["deploy", "biased"]).await?;

    heading("5. What is there now, and what clients got");
    step(stack, 0, &["status"]).await?;
    traffic.reach(traffic.count() + 100).await
}

/// Runs the deployer with its progress visible, and expects this exit code.
async fn step(stack: &Stack, code: i32, arguments: &[&str]) -> anyhow::Result<()> {
    let command = format!("deployer {}", arguments.join(" "));
    say(&format!("$ {command}"));
    let run = stack
        .command(arguments)?
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(COMMAND_TIMEOUT, run)
        .await
        .with_context(|| format!("`{command}` did not end within {COMMAND_TIMEOUT:?}"))??;
    ensure!(
        status.code() == Some(code),
        "`{command}` ended with {status}, not with {code}"
    );
    Ok(())
}

/// Shows the answer to a sentence, as a client receives it.
async fn show_answer(port: u16) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{port}");
    let ask = post_for_body(&address, "/predict", SENTENCE);
    let answer = tokio::time::timeout(COMMAND_TIMEOUT, ask)
        .await
        .context("the router did not answer")??;
    say(&format!(
        "\n  POST /predict {SENTENCE}\n  -> {}",
        answer.trim_end()
    ));
    Ok(())
}

fn print_counts(log: &Log) {
    let failures = log.failures();
    let failed: usize = failures.values().sum();
    say(&format!(
        "\n  requests sent {:>13}\n  requests failed {failed:>11}",
        log.answers.len()
    ));
    for (version, count) in log.by_version() {
        say(&format!("  answered by {version:<8} {count:>6}"));
    }
    for (problem, count) in failures {
        say(&format!("  {count} x {problem}"));
    }
}

/// Moves the reports to a directory that survives the stack. Returns the pages, oldest first.
fn keep_reports(stack: &Stack) -> anyhow::Result<Vec<PathBuf>> {
    let kept = Path::new("target/demo");
    let directory = repository().join(kept);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(stack.path("state/reports"))? {
        let report = entry?;
        fs::copy(report.path(), directory.join(report.file_name()))?;
        let path = kept.join(report.file_name());
        if path
            .extension()
            .is_some_and(|extension| extension == "html")
        {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

fn heading(text: &str) {
    say(&format!("\n{text}\n"));
}

fn say(text: &str) {
    // A closed standard output must not end it with servers still running.
    let _ = writeln!(std::io::stdout(), "{text}");
}
