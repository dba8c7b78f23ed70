//! The ends of deployments reach the receivers of alerts, with and without a monitor.

use std::{
    ffi::OsStr,
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{AlertReceiver, BakeDuration, DeployerRun, Stack};
use tokio::process::Child;

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Starts blue with v1, which is active, and green.
async fn start_stack() -> Result<Stack> {
    let stack = Stack::with_processes("faulty-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    Ok(stack)
}

/// Starts the deployer with a receiver.
fn start(stack: &Stack, receiver: &str, arguments: &[&str]) -> Result<Child> {
    let environment = [("DEPLOYER_ALERTS_WEBHOOK", OsStr::new(receiver))];
    stack.start_deployer_with(arguments, &environment)
}

/// Runs the deployer with a receiver. Fails unless it exits with `code`.
async fn run(stack: &Stack, receiver: &str, code: i32, arguments: &[&str]) -> Result<DeployerRun> {
    let run = Stack::wait_for_exit(start(stack, receiver, arguments)?, arguments).await?;
    ensure!(run.code == code, "{arguments:?}: {run:?}");
    Ok(run)
}

/// Deploys v2, which is promoted also without clients.
const DEPLOY_V2: [&str; 4] = ["deploy", "v2", "--set", "bake.on_inconclusive=promote"];

/// Deploys v2 with a deployer that is killed when its journal has the promotion, and its history does not.
async fn deploy_and_kill(stack: &Stack, receiver: &str) -> Result {
    let environment: [(&str, &OsStr); 2] = [
        ("DEPLOYER_ALERTS_WEBHOOK", receiver.as_ref()),
        ("DEPLOYER_KILL_AT", "after journal promoted".as_ref()),
    ];
    let deployer = stack.start_deployer_with(&DEPLOY_V2, &environment)?;
    Stack::wait_for_exit(deployer, &DEPLOY_V2).await?;
    Ok(())
}

/// The undelivered notifications for the webhook.
fn count_undelivered(stack: &Stack) -> usize {
    let files = fs::read_dir(stack.path("state/notifications/webhook"));
    let names = files.into_iter().flatten().flatten();
    names
        .filter(|file| file.path().extension().is_some_and(|it| it == "json"))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_end_is_notified_with_reason_report_and_user() -> Result {
    let stack = start_stack().await?;
    let receiver = AlertReceiver::start(0).await?;
    let url = receiver.url();
    run(&stack, &url, 0, &DEPLOY_V2).await?;
    run(&stack, &url, 0, &["rollback"]).await?;
    let hook = r#"hooks.before.switched=["false"]"#;
    let refused = ["deploy", "v2", "--set", hook, "--set", "health.stall=30s"];
    run(&stack, &url, 10, &refused).await?;
    let long = ["deploy", "v2", "--bake", "2m"];
    let deployer = start(&stack, &url, &long)?;
    stack.wait_for_phase("switched").await?;
    stack.signal_service("blue", "KILL")?;
    stack.wait_until_exited("blue").await?;
    Stack::signal_deployer(&deployer, "TERM")?;
    let halted = Stack::wait_for_exit(deployer, &long).await?;
    stack.expect_exit(0, &["up"]).await?;
    run(&stack, &url, 0, &["switch", "blue"]).await?;

    let kinds = ["promoted", "rolled_back", "refused", "halted", "switched"];
    ensure!(
        receiver.kinds() == kinds,
        "{:?}\n{halted:?}",
        receiver.alerts()
    );
    for notification in receiver.alerts() {
        let by = notification["by"].as_str().context("by")?;
        ensure!(by.contains('@'), "{notification}");
        let reason = notification["reason"].as_str().context("reason")?;
        let text = notification["text"].as_str().context("text")?;
        ensure!(text.contains(reason), "{notification}");
        if notification["kind"] == "switched" {
            ensure!(notification["report"].is_null(), "{notification}");
            continue;
        }
        let report = notification["report"].as_str().context("report")?;
        ensure!(stack.path(report).exists(), "{notification}");
        ensure!(text.contains(report), "{notification}");
    }
    ensure!(
        count_undelivered(&stack) == 0,
        "a delivered notification is kept"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_receiver_neither_fails_nor_holds_up_a_command() -> Result {
    let stack = start_stack().await?;
    // The kernel accepts connections, and no answer comes.
    let hanging = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/", hanging.local_addr()?);
    let promoted = run(&stack, &url, 0, &DEPLOY_V2).await?;
    ensure!(
        promoted.stderr.contains("alerts.webhook did not accept"),
        "{promoted:?}"
    );
    ensure!(
        !promoted.stderr.contains(&url),
        "the address is a secret: {promoted:?}"
    );
    ensure!(
        count_undelivered(&stack) == 1,
        "the notification is not kept"
    );
    let began = Instant::now();
    run(&stack, &url, 0, &["rollback"]).await?;
    ensure!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );

    // A command whose environment names no receiver adds to the queue, and the monitor empties it.
    stack.expect_exit(0, &["switch", "green"]).await?;
    ensure!(
        count_undelivered(&stack) == 3,
        "{}",
        count_undelivered(&stack)
    );
    let receiver = AlertReceiver::start(0).await?;
    let monitor = start(&stack, &receiver.url(), &["monitor"])?;
    wait_until(|| receiver.alerts().len() >= 3 && count_undelivered(&stack) == 0).await?;
    let kinds = ["promoted", "rolled_back", "switched"];
    ensure!(receiver.kinds() == kinds, "{:?}", receiver.alerts());

    stack.expect_exit(0, &["switch", "blue"]).await?;
    wait_until(|| receiver.alerts().len() == 4).await?;
    ensure!(
        receiver.alerts()[3]["color"] == "blue",
        "{:?}",
        receiver.alerts()
    );
    drop(monitor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn end_recorded_by_a_killed_deployer_is_notified_by_next_command() -> Result {
    let stack = start_stack().await?;
    let receiver = AlertReceiver::start(0).await?;
    let url = receiver.url();
    deploy_and_kill(&stack, &url).await?;
    ensure!(receiver.alerts().is_empty(), "{:?}", receiver.alerts());
    run(&stack, &url, 0, &["rollback"]).await?;
    let kinds = ["promoted", "rolled_back"];
    ensure!(receiver.kinds() == kinds, "{:?}", receiver.alerts());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn end_is_notified_by_a_command_that_finds_the_lock_busy() -> Result {
    let stack = start_stack().await?;
    let receiver = AlertReceiver::start(0).await?;
    let url = receiver.url();
    deploy_and_kill(&stack, &url).await?;
    // The next command with the lock completes the history.
    stack.expect_exit(0, &["up"]).await?;
    let lock = fs::File::open(stack.path("state/lock"))?;
    lock.try_lock()?;
    run(&stack, &url, 75, &["switch", "green"]).await?;
    ensure!(receiver.kinds() == ["promoted"], "{:?}", receiver.alerts());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_receiver_is_forgotten_when_the_monitor_starts() -> Result {
    let stack = start_stack().await?;
    let rejecting = AlertReceiver::start(usize::MAX).await?;
    run(&stack, &rejecting.url(), 0, &DEPLOY_V2).await?;
    ensure!(
        count_undelivered(&stack) == 1,
        "the notification is not kept"
    );
    let receiver = AlertReceiver::start(0).await?;
    let setting = format!("alerts.slack={}", receiver.url());
    let monitor = stack.start_deployer(&["monitor", "--set", &setting])?;
    wait_until(|| stack.path("state/notifications/slack/lock").exists()).await?;
    ensure!(
        !stack.path("state/notifications/webhook").exists(),
        "the webhook is remembered"
    );
    stack.expect_exit(0, &["rollback"]).await?;
    wait_until(|| !receiver.alerts().is_empty()).await?;
    let text = receiver.alerts()[0]["text"].clone();
    let text = text.as_str().context("text")?;
    ensure!(
        text.starts_with("*rolled_back* v2 on green was rolled back: by hand"),
        "{text}"
    );
    ensure!(
        !stack.path("state/notifications/webhook").exists(),
        "the webhook is remembered"
    );
    drop(monitor);
    Ok(())
}

/// Waits for a condition. Fails after 30 s.
async fn wait_until(condition: impl Fn() -> bool) -> Result {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .context("the condition did not hold within 30 s")
}
