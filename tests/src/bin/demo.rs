//! `make demo` deploys three releases under live traffic: one is promoted, one is rolled back automatically, and
//! one is refused.
//!
//! [`SETTINGS`] leave out every rule that judges time, so no verdict depends on the speed of the machine.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use end_to_end::{BakeDuration, Stack, Traffic, TrafficLog, post_for_body, repository};
use serde_json::Value;
use tokio::process::Child;

/// Few enough clients that two busy cores can also run the stack.
const CONNECTIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// A sentence on which the releases disagree: v2 understands "not bad" as a phrase.
const SENTENCE: &str = r#"{"text":"Not bad at all."}"#;
/// Longer than any command takes on a busy machine.
const COMMAND_TIMEOUT: Duration = Duration::from_mins(5);

/// Settings without a gate that compares latencies. Long timeouts only bound the waits.
const SETTINGS: &str = r#"
[gates]
run = ["identity", "reachable", "smoke", "golden", "agreement", "load"]

[probe]
timeout = "60s"

[health]
stall = "120s"
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
    // After Ctrl-C the stack is dropped too, which stops all of its processes.
    let result = tokio::select! {
        result = run() => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted by Ctrl-C")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nThe demonstration failed: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> anyhow::Result<()> {
    let started = Instant::now();
    let stack = Stack::with_processes("faulty-server", BakeDuration(Duration::ZERO))?;
    stack.replace_settings(SETTINGS)?;
    say(&format!(
        "Blue, green, and nginx run as processes; clients use http://{}.\n\
         Not used here, because they depend on the speed of this machine: the gates comparison and headroom, \
         the p99 limit of the gate load, and the latency rule of the bake.",
        stack.router_address()
    ));

    heading("1. Blue serves v1, and green is idle");
    step(&stack, 0, &["up"]).await?;
    show_prediction(stack.ports().router()).await?;
    // Dropping it ends the page.
    let _monitor = show_page(&stack).await?;

    say(&format!(
        "\nFrom now on {CONNECTIONS} clients send sentences, each over one keep-alive connection."
    ));
    let traffic = stack.start_traffic(CONNECTIONS, PAUSE)?;
    traffic.wait_for_requests(100).await?;
    let steps = deploy_three_releases(&stack, &traffic).await;
    let log = traffic.stop().await;
    print_counts(&log);
    let reports = copy_reports(&stack);
    steps?;

    ensure!(
        log.failures().is_empty(),
        "requests failed; the list is above"
    );
    for version in ["v1", "v2"] {
        ensure!(
            log.by_version().contains_key(version),
            "{version} answered no client"
        );
    }
    say(&format!(
        "\nNo request failed, and all processes are stopped when this program ends ({} s).\n\nReports:",
        started.elapsed().as_secs()
    ));
    let reports = reports?;
    for report in &reports {
        say(&format!("  {}", report.display()));
    }
    say(
        "\nOpen the first report in a browser: it shows the evidence for v2. Then try `make up FLEET=process` and \
         `make deploy VERSION=v2 FLEET=process`. With Docker, leave out FLEET.",
    );
    Ok(())
}

async fn deploy_three_releases(stack: &Stack, traffic: &Traffic) -> anyhow::Result<()> {
    heading("2. v2 is started on green, passes the gates, and receives all traffic");
    step(stack, 0, &["deploy", "v2"]).await?;
    show_prediction(stack.ports().router()).await?;

    heading("3. A bad release passes every gate, fails client requests, and is rolled back");
    say(
        "Its version is fails-clients. The standby v2 answers the failed requests, so no client sees a failure.",
    );
    step(stack, 20, &["deploy", "fails-clients"]).await?;

    heading("4. A bad release is refused: it labels every text negative");
    step(stack, 10, &["deploy", "biased"]).await?;

    heading("5. What each color serves now, and what clients received");
    step(stack, 0, &["status"]).await?;
    traffic.wait_for_requests(traffic.count() + 100).await
}

/// Starts the monitor with its page, and says where it is. Dropping the monitor kills it.
async fn show_page(stack: &Stack) -> anyhow::Result<Child> {
    let address = format!("monitor.page=127.0.0.1:{}", stack.ports().page());
    let mut monitor = stack
        .deployer_command(&["monitor", "--set", &address])?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("cannot start the monitor")?;
    let link = tokio::select! {
        link = page_link(stack) => link?,
        exited = monitor.wait() => bail!("the monitor ended: {}", exited?),
        () = tokio::time::sleep(COMMAND_TIMEOUT) => bail!("the page was not there within {COMMAND_TIMEOUT:?}"),
    };
    say(&format!(
        "\nFollow everything on a page, as long as this runs. The link signs you in once:\n  {link}"
    ));
    Ok(monitor)
}

/// Returns a link to the page, as soon as the monitor serves it.
async fn page_link(stack: &Stack) -> anyhow::Result<String> {
    const PAUSE: Duration = Duration::from_millis(100);

    loop {
        let run = stack.run_deployer(&["page-link", "--json"]).await?;
        if run.code == 0 {
            let answer: Value = serde_json::from_str(&run.stdout)?;
            let link = answer["link"].as_str();
            return Ok(link
                .context("`deployer page-link` gave no link")?
                .to_owned());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs the deployer with visible progress. Fails unless it exits with `code`.
async fn step(stack: &Stack, code: i32, arguments: &[&str]) -> anyhow::Result<()> {
    let command = format!("deployer {}", arguments.join(" "));
    say(&format!("$ {command}"));
    let process = stack
        .deployer_command(arguments)?
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status();
    let status = tokio::time::timeout(COMMAND_TIMEOUT, process)
        .await
        .with_context(|| format!("`{command}` did not exit within {COMMAND_TIMEOUT:?}"))??;
    ensure!(
        status.code() == Some(code),
        "`{command}` exited with {status}, not with {code}"
    );
    Ok(())
}

/// Prints the prediction for a sentence, as a client receives it.
async fn show_prediction(port: u16) -> anyhow::Result<()> {
    let address = format!("127.0.0.1:{port}");
    let request = post_for_body(&address, "/predict", SENTENCE);
    let prediction = tokio::time::timeout(COMMAND_TIMEOUT, request)
        .await
        .with_context(|| format!("the router did not answer within {COMMAND_TIMEOUT:?}"))??;
    say(&format!(
        "\n  POST /predict {SENTENCE}\n  -> {}",
        prediction.trim_end()
    ));
    Ok(())
}

fn print_counts(log: &TrafficLog) {
    let failures = log.failures();
    let failed: usize = failures.values().sum();
    say(&format!(
        "\n  requests sent {:>13}\n  requests failed {failed:>11}",
        log.requests.len()
    ));
    for (version, count) in log.by_version() {
        say(&format!("  answered by {version:<8} {count:>6}"));
    }
    for (error, count) in failures {
        say(&format!("  {count} x {error}"));
    }
}

/// Copies the reports to `target/demo`, because the stack's directory is deleted. Returns the pages, oldest first.
fn copy_reports(stack: &Stack) -> anyhow::Result<Vec<PathBuf>> {
    let relative = Path::new("target/demo");
    let directory = repository().join(relative);
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    let mut pages = Vec::new();
    for entry in fs::read_dir(stack.path("state/reports"))? {
        let report = entry?;
        fs::copy(report.path(), directory.join(report.file_name()))?;
        let path = relative.join(report.file_name());
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
    // `println!` would panic if standard output is closed, and the servers would go on running.
    let _ = writeln!(std::io::stdout(), "{text}");
}
