//! What the colors hold when a release was refused, or its files have changed since its promotion.

use std::{fs, os::unix::fs::symlink, time::Duration};

use anyhow::{Context as _, ensure};
use end_to_end::{AlertReceiver, Stack, repository};
use serde_json::json;

use crate::{Result, SHORT_BAKE, start_with_standby};

#[tokio::test(flavor = "multi_thread")]
async fn up_keeps_a_refused_release_stopped() -> Result {
    let stack = Stack::up("faulty-server", SHORT_BAKE).await?;
    let deploy = ["deploy", "never-healthy", "--set", "health.stall=600ms"];
    stack.expect_exit(10, &deploy).await?;
    let before = stack.status().await?;
    stack.expect_exit(0, &["down"]).await?;
    stack.expect_exit(0, &["up"]).await?;
    let status = stack.status().await?;
    ensure!(
        status["colors"][1]["model_version"] != "never-healthy"
            && (status["colors"][1]["healthy"] == true || status["colors"][1]["stopped"] == true),
        "{before}\n{status}"
    );
    Ok(())
}

/// Replaces the link to a shipped release by a copy whose files differ, and load alike.
fn change_release(stack: &Stack, version: &str) -> Result {
    let directory = stack.path("models/sentiment").join(version);
    let shipped = fs::canonicalize(&directory)?;
    fs::remove_file(&directory)?;
    fs::create_dir(&directory)?;
    for file in fs::read_dir(shipped)? {
        let file = file?;
        fs::copy(file.path(), directory.join(file.file_name()))?;
    }
    let path = directory.join("config.json");
    let text = fs::read_to_string(&path)?;
    Ok(fs::write(path, format!("{text}\n"))?)
}

/// Replaces a file of a release by a pipe without a writer: who reads it waits, as for a very large model.
fn make_endless(stack: &Stack, version: &str) -> Result {
    change_release(stack, version)?;
    let path = stack
        .path("models/sentiment")
        .join(version)
        .join("config.json");
    fs::remove_file(&path)?;
    let made = std::process::Command::new("mkfifo").arg(&path).status()?;
    ensure!(made.success(), "mkfifo: {made}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_checks_and_stops_while_it_hashes_a_release() -> Result {
    let stack = start_with_standby().await?;
    make_endless(&stack, "v2")?;
    let receiver = AlertReceiver::start(0).await?;
    let arguments = monitor_arguments(&receiver);
    let monitor = stack.start_deployer(&as_strs(&arguments))?;
    stack.signal_service("blue", "KILL")?;
    let alerted = receiver.wait_for_alert("down", "blue").await;
    Stack::signal_deployer(&monitor, "TERM")?;
    let run = Stack::wait_for_exit(monitor, &["monitor"]).await?;
    alerted.with_context(|| format!("{run:?}"))?;
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_release_files_are_named_by_status_doctor_and_monitor() -> Result {
    let stack = start_with_standby().await?;
    let status = stack.status().await?;
    ensure!(status["problems"] == json!([]), "{status}");
    change_release(&stack, "v2")?;
    let expected = "models/sentiment/v2 is not what was promoted on green: its digest is ";

    let status = stack.status().await?;
    let problems = status["problems"].to_string();
    ensure!(problems.contains(expected), "{status}");
    let run = stack.run_deployer(&["doctor"]).await?;
    ensure!(run.code == 1 && run.stdout.contains(expected), "{run:?}");
    // The server still has the promoted files in memory.
    ensure!(!problems.contains("green serves"), "{status}");

    let receiver = AlertReceiver::start(0).await?;
    let arguments = monitor_arguments(&receiver);
    let monitor = stack.start_deployer(&as_strs(&arguments))?;
    receiver.wait_for_alert("release_changed", "green").await?;
    stack.expect_exit(0, &["down"]).await?;
    Stack::wait_for_exit(monitor, &["monitor"]).await?;
    let alerts = receiver.alerts();
    ensure!(alerts.len() == 1, "{alerts:?}");
    ensure!(
        alerts[0]["text"].to_string().contains(expected),
        "{alerts:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn server_with_another_digest_is_named_by_status_doctor_and_monitor() -> Result {
    let stack = start_with_standby().await?;
    change_release(&stack, "v2")?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    // Green starts again with the changed files.
    stack.expect_exit(0, &["up"]).await?;
    let expected = "green serves v2 with the digest ";

    let status = stack.status().await?;
    ensure!(
        status["problems"].to_string().contains(expected),
        "{status}"
    );
    let run = stack.run_deployer(&["doctor"]).await?;
    ensure!(run.code == 1 && run.stdout.contains(expected), "{run:?}");

    let receiver = AlertReceiver::start(0).await?;
    let arguments = monitor_arguments(&receiver);
    let monitor = stack.start_deployer(&as_strs(&arguments))?;
    receiver.wait_for_alert("release_changed", "green").await?;
    let texts = async {
        while !json!(receiver.alerts()).to_string().contains(expected) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), texts).await?;
    stack.expect_exit(0, &["down"]).await?;
    Stack::wait_for_exit(monitor, &["monitor"]).await?;

    // The promoted files are back, and so is what they serve.
    fs::remove_dir_all(stack.path("models/sentiment/v2"))?;
    symlink(
        repository().join("models/sentiment/v2"),
        stack.path("models/sentiment/v2"),
    )?;
    stack.expect_exit(0, &["up"]).await?;
    let status = stack.status().await?;
    ensure!(status["problems"] == json!([]), "{status}");
    Ok(())
}

fn monitor_arguments(receiver: &AlertReceiver) -> Vec<String> {
    let webhook = format!("alerts.webhook={}", receiver.url());
    let interval = "monitor.interval=200ms";
    ["monitor", "--set", &webhook, "--set", interval]
        .map(str::to_owned)
        .to_vec()
}

fn as_strs(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// A hook that refuses the candidate after all gates.
const REFUSING: [&str; 2] = ["--set", r#"hooks.before.switched=["false"]"#];

#[tokio::test(flavor = "multi_thread")]
async fn idle_color_gets_its_release_back_under_one_version_only_with_equal_files() -> Result {
    // v2 is active on green, and v1 on blue can stand in.
    let stack = start_with_standby().await?;
    let deploy = [
        &["deploy", "v1", "--set", "health.stall=30s"],
        &REFUSING[..],
    ]
    .concat();
    let run = stack.expect_exit(10, &deploy).await?;
    let status = stack.status().await?;
    let blue = &status["colors"][0];
    ensure!(
        blue["model_version"] == "v1" && blue["fit"] == true,
        "{status}\n{run:?}"
    );

    change_release(&stack, "v1")?;
    let run = stack.expect_exit(10, &deploy).await?;
    let expected = "v1 names other files than blue served before: their digest is ";
    ensure!(run.stderr.contains(expected), "{run:?}");
    let history = stack.expect_exit(0, &["history"]).await?;
    ensure!(history.stdout.contains(expected), "{history:?}");
    let stays_stopped = async || {
        let status = stack.status().await?;
        let blue = &status["colors"][0];
        ensure!(
            blue["stopped"] == true && blue["fit"] == false,
            "{status}\n{run:?}"
        );
        Ok(())
    };
    stays_stopped().await?;
    stack.expect_exit(0, &["up"]).await?;
    stays_stopped().await
}
