//! `make demo`: a real release replaced under live traffic, then a bad one that goes back by itself.

use std::{
    io::Write as _,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use end_to_end::{Log, Stack, Traffic, Watch};
use tokio::process::Command;

/// Long enough to see, short enough to wait for.
const WATCHED: Watch = Watch(Duration::from_secs(10));
const CONNECTIONS: usize = 16;
/// About 300 requests a second.
const PAUSE: Duration = Duration::from_millis(50);
/// A sentence on which the two releases disagree: only the second one reads it as a whole.
const SENTENCE: &str = r#"{"text":"Not bad at all."}"#;

#[tokio::main]
async fn main() -> ExitCode {
    // Its end must be seen here, so that everything that was started is stopped on the way out.
    let told = tokio::select! {
        told = tell() => told,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("it was interrupted")),
    };
    match told {
        Ok(()) => {
            say("\nNot one request failed, and nothing is left running.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("\nThe demonstration failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn tell() -> anyhow::Result<()> {
    let stack = Stack::of_processes("faulty-server", WATCHED)?;
    say(&format!(
        "\nBlue, green and nginx run as processes; clients come in at http://{}.\n",
        stack.router()
    ));
    step(&stack, 0, &["up"]).await?;
    step(&stack, 0, &["status"]).await?;

    say(&format!(
        "\n{CONNECTIONS} clients send real sentences over keep-alive connections from now on.\n"
    ));
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(500).await?;
    let whole_way = with_traffic(&stack, &traffic).await;
    let log = traffic.stop().await;
    account(&log);
    whole_way?;

    ensure!(log.failures().is_empty(), "some requests failed");
    for version in ["v1", "v2", "fails-later"] {
        ensure!(
            log.by_version().contains_key(version),
            "{version} never answered a client"
        );
    }
    Ok(())
}

async fn with_traffic(stack: &Stack, traffic: &Traffic) -> anyhow::Result<()> {
    say(
        "\nRelease v2 goes to the idle color, is proven there, gets all traffic, and is watched:\n",
    );
    stack.ask_the_shipped_gates()?;
    step(stack, 0, &deploy("v2")).await?;
    say("\nBoth releases are still there, and they do not agree:\n");
    for (name, port) in [
        ("blue", stack.ports().blue()),
        ("green", stack.ports().green()),
        ("the router", stack.ports().router()),
    ] {
        let answer = ask(port).await?;
        say(&format!(
            "  {name:<11} {SENTENCE}\n              -> {answer}"
        ));
    }
    say("\nThe next release passes every test, and begins to answer 500 when clients come:\n");
    step(stack, 20, &deploy("fails-later")).await?;
    step(stack, 0, &["status"]).await?;
    traffic.reach(traffic.count() + 500).await
}

/// Asks less of a release than one that is built to be fast has to give, and has more patience: these are
/// not, and whatever else the machine does makes the larger model later still.
fn deploy(version: &str) -> [&str; 8] {
    [
        "deploy",
        version,
        "--set",
        "load.concurrency=100",
        "--set",
        "comparison.negligible=1s",
        "--set",
        "comparison.duration=30s",
    ]
}

/// Runs the deployer as a person would, its progress in full view.
async fn step(stack: &Stack, code: i32, arguments: &[&str]) -> anyhow::Result<()> {
    say(&format!("$ deployer {}", arguments.join(" ")));
    let run = stack
        .command(arguments)?
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(Duration::from_mins(3), run)
        .await
        .context("it did not end")??;
    ensure!(
        status.code() == Some(code),
        "`deployer {}` ended with {status}, not with {code}",
        arguments.join(" ")
    );
    Ok(())
}

async fn ask(port: u16) -> anyhow::Result<String> {
    let url = format!("http://127.0.0.1:{port}/predict");
    let arguments = [
        "--silent",
        "--max-time",
        "5",
        "-H",
        "content-type: application/json",
        "-d",
        SENTENCE,
        &url,
    ];
    let output = Command::new("curl")
        .args(arguments)
        .output()
        .await
        .context("cannot run curl")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn account(log: &Log) {
    let failures = log.failures();
    let failed: usize = failures.values().sum();
    say("\n  requests");
    say(&format!("    sent             {:>7}", log.answers.len()));
    say(&format!("    failed           {failed:>7}"));
    for (version, count) in log.by_version() {
        say(&format!("    by {version:<13} {count:>7}"));
    }
    for (problem, count) in failures {
        say(&format!("    {count} x {problem}"));
    }
}

fn say(text: &str) {
    // Nobody listening is no reason to stop half-way and leave things running.
    let _ = writeln!(std::io::stdout(), "{text}");
}
