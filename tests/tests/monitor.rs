//! `deployer monitor` sends alerts and acts when a color goes down. No client request may fail.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{
    AlertReceiver, BakeDuration, DeployerRun, PortBlock, Stack, TrafficLog, get, post,
};
use serde_json::Value;
use tokio::process::Child;

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));
const PAUSE: Duration = Duration::from_millis(20);
/// The time limit for an alert.
const ALERT_LIMIT: Duration = Duration::from_secs(15);

type Result<T = ()> = anyhow::Result<T>;

/// A stack with a monitor and a receiver of its alerts.
struct MonitoredStack {
    stack: Stack,
    receiver: AlertReceiver,
    monitor: Child,
}

impl MonitoredStack {
    /// Starts a stack on which green is active with v2, and blue is its standby with v1.
    async fn start(arguments: &[&str]) -> Result<Self> {
        Self::start_with(&["v2"], arguments).await
    }

    /// Starts a stack, and deploys these releases one after the other.
    async fn start_with(releases: &[&str], arguments: &[&str]) -> Result<Self> {
        let stack = Stack::with_processes("faulty-server", SHORT_BAKE)?;
        stack.expect_exit(0, &["up"]).await?;
        for release in releases {
            deploy(&stack, release).await?;
        }
        let receiver = AlertReceiver::start(0).await?;
        let monitor = start_monitor(&stack, &receiver, arguments)?;
        Ok(Self {
            stack,
            receiver,
            monitor,
        })
    }

    /// Stops the monitor by SIGTERM, as systemd does. Fails unless it exits with 0.
    async fn stop(self) -> Result {
        Stack::signal_deployer(&self.monitor, "TERM")?;
        let run = Stack::wait_for_exit(self.monitor, &["monitor"]).await?;
        ensure!(run.code == 0, "{run:?}");
        Ok(())
    }

    /// Returns whether a color has its fit flag.
    async fn is_fit(&self, color: usize) -> Result<bool> {
        let status = self.stack.status().await?;
        status["colors"][color]["fit"]
            .as_bool()
            .context("status does not say whether the color is fit")
    }
}

/// Deploys a release. Without clients the bake is inconclusive, so the settings promote it then.
async fn deploy(stack: &Stack, release: &str) -> Result<DeployerRun> {
    let deploy = ["deploy", release, "--set", "bake.on_inconclusive=promote"];
    stack.expect_exit(0, &deploy).await
}

/// Settings with which the monitor detects within seconds that a color is down.
const FAST_DETECTION: [&str; 4] = [
    "--set",
    "monitor.interval=200ms",
    "--set",
    "probe.timeout=1s",
];

fn start_monitor(stack: &Stack, receiver: &AlertReceiver, arguments: &[&str]) -> Result<Child> {
    let url = receiver.url();
    stack.start_deployer_with(
        &[&["monitor"], &FAST_DETECTION[..], arguments].concat(),
        &[("DEPLOYER_ALERTS_WEBHOOK", url.as_ref())],
    )
}

const BLUE: usize = 0;
const GREEN: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn frozen_standby_loses_fit_flag_until_healthy() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    let traffic = monitored.stack.start_traffic(8, PAUSE)?;
    ensure!(monitored.is_fit(BLUE).await?, "blue lost its fit flag");
    monitored.stack.signal_service("blue", "STOP")?;
    let delay = monitored.receiver.wait_for_alert("down", "blue").await?;
    ensure!(delay < ALERT_LIMIT, "{delay:?}");
    ensure!(
        !monitored.is_fit(BLUE).await?,
        "blue still has its fit flag"
    );
    monitored.stack.signal_service("blue", "CONT")?;
    monitored.receiver.wait_for_alert("up", "blue").await?;
    wait_until(async || monitored.is_fit(BLUE).await).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v2")?;
    let alerts = monitored.receiver.alerts();
    ensure!(
        alerts.len() == 2,
        "expected one alert down and one alert up: {alerts:?}"
    );
    ensure!(alerts[0]["schema"] == 1, "{alerts:?}");
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_standby_is_restarted_with_restart_standby() -> Result {
    // With 10 good checks needed, the test can see the removed fit flag before it is set again.
    let many_good_checks = ["--set", "monitor.rise=10"];
    let restart = ["--set", "monitor.restart_standby=true"];
    let monitored = MonitoredStack::start(&[restart, many_good_checks].concat()).await?;
    let traffic = monitored.stack.start_traffic(8, PAUSE)?;
    monitored.stack.signal_service("blue", "KILL")?;
    let delay = monitored.receiver.wait_for_alert("down", "blue").await?;
    ensure!(delay < ALERT_LIMIT, "{delay:?}");
    wait_until(async || Ok(!monitored.is_fit(BLUE).await?)).await?;
    monitored.receiver.wait_for_alert("up", "blue").await?;
    wait_until(async || monitored.is_fit(BLUE).await).await?;
    traffic.stop().await.ensure_none_failed()?;
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_standby_loses_fit_flag_until_fast() -> Result {
    let monitored = MonitoredStack::start_with(&["slow-after-signal", "v1"], &[]).await?;
    let traffic = monitored.stack.start_traffic(8, PAUSE)?;
    ensure!(monitored.is_fit(GREEN).await?, "green has no fit flag");
    monitored.stack.signal_service("green", "USR1")?;
    let delay = monitored.receiver.wait_for_alert("down", "green").await?;
    ensure!(delay < ALERT_LIMIT, "{delay:?}");
    wait_until(async || Ok(!monitored.is_fit(GREEN).await?)).await?;
    monitored.stack.signal_service("green", "USR1")?;
    let delay = monitored.receiver.wait_for_alert("up", "green").await?;
    ensure!(delay < ALERT_LIMIT, "{delay:?}");
    wait_until(async || monitored.is_fit(GREEN).await).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v1")?;
    let alerts = monitored.receiver.alerts();
    ensure!(
        alerts.len() == 2,
        "expected one alert down and one alert up: {alerts:?}"
    );
    monitored.stop().await
}

/// Settings with which a failover stops a frozen color within seconds, before requests time out.
const FAILOVER: [&str; 4] = [
    "--set",
    "monitor.failover=true",
    "--set",
    "fleet.process.stop_timeout=2s",
];
/// `proxy_read_timeout` in `limits.conf`.
const READ_TIMEOUT: Duration = Duration::from_mins(2);

/// Fails unless requests hung on a frozen color, and the other color answered them long before nginx's timeout.
fn ensure_hanging_requests_are_retried(log: &TrafficLog) -> Result {
    log.ensure_none_failed()?;
    let longest = log.requests.iter().map(|request| request.duration).max();
    let longest = longest.context("no request was sent")?;
    ensure!(
        longest > Duration::from_secs(2),
        "no request hung on the frozen color: {longest:?}"
    );
    ensure!(longest < READ_TIMEOUT / 2, "{longest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_leaves_a_frozen_active_color() -> Result {
    let monitored = MonitoredStack::start(&FAILOVER).await?;
    let stack = &monitored.stack;
    let traffic = stack.start_traffic(8, PAUSE)?;
    traffic.wait_for_requests(200).await?;
    let frozen = Instant::now();
    stack.signal_service("green", "STOP")?;
    monitored.receiver.wait_for_alert("down", "green").await?;
    monitored
        .receiver
        .wait_for_alert("failover", "blue")
        .await?;
    ensure!(frozen.elapsed() < ALERT_LIMIT, "{:?}", frozen.elapsed());
    stack.wait_until_exited("green").await?;
    let stopped = Instant::now();
    traffic.wait_for_requests(traffic.count() + 200).await?;
    let log = traffic.stop().await;
    ensure_hanging_requests_are_retried(&log)?;
    log.between(stopped, Instant::now())
        .ensure_answered_only_by("v1")?;
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["fit"] == false, "{status}");
    let history = stack.expect_exit(0, &["history"]).await?.stdout;
    for words in [
        "failed over",
        "was down: ",
        "what still runs of it is stopped",
    ] {
        ensure!(history.contains(words), "{history}");
    }
    let mut alerts = monitored.receiver.alerts().into_iter();
    let failover = alerts.find(|alert| alert["kind"] == "failover");
    let text = failover.context("no alert")?["text"].to_string();
    ensure!(text.contains("what still runs of it is stopped"), "{text}");
    // When green is healthy again, it becomes the standby.
    stack.expect_exit(0, &["up"]).await?;
    monitored.receiver.wait_for_alert("up", "green").await?;
    wait_until(async || monitored.is_fit(GREEN).await).await?;
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_color_is_restarted_as_standby_after_failover() -> Result {
    let restart = ["--set", "monitor.restart_standby=true"];
    let monitored = MonitoredStack::start(&[&FAILOVER[..], &restart].concat()).await?;
    let traffic = monitored.stack.start_traffic(8, PAUSE)?;
    monitored.stack.signal_service("green", "STOP")?;
    monitored
        .receiver
        .wait_for_alert("failover", "blue")
        .await?;
    monitored.receiver.wait_for_alert("up", "green").await?;
    wait_until(async || monitored.is_fit(GREEN).await).await?;
    ensure_hanging_requests_are_retried(&traffic.stop().await)?;
    let mut kinds = monitored.receiver.kinds();
    kinds.sort();
    // The failover ends the deployment of green.
    ensure!(
        kinds == ["down", "failover", "rolled_back", "up"],
        "{:?}",
        monitored.receiver.alerts()
    );
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_waits_for_a_monitor_that_stops_a_color() -> Result {
    let long_stop = ["--set", "fleet.process.stop_timeout=5s"];
    let monitored = MonitoredStack::start(&[&FAILOVER[..], &long_stop].concat()).await?;
    monitored.stack.signal_service("green", "STOP")?;
    monitored
        .receiver
        .wait_for_alert("failover", "blue")
        .await?;
    let run = deploy(&monitored.stack, "v2").await?;
    ensure!(run.stderr.contains("waiting for `monitor` by"), "{run:?}");
    ensure!(!run.stderr.contains("was interrupted"), "{run:?}");
    ensure!(monitored.stack.status().await?["active"] == "green");
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_color_is_stopped_by_next_command_when_monitor_was_killed() -> Result {
    let MonitoredStack {
        stack, mut monitor, ..
    } = MonitoredStack::start(&[]).await?;
    monitor.kill().await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    traffic.wait_for_requests(200).await?;
    let kill = [("DEPLOYER_KILL_AT", "after flag green off".as_ref())];
    let monitor = stack.start_deployer_with(
        &[&["monitor"], &FAST_DETECTION[..], &FAILOVER[..]].concat(),
        &kill,
    )?;
    stack.signal_service("green", "STOP")?;
    Stack::wait_for_exit(monitor, &["monitor"]).await?;
    let recover = ["recover", "--set", "fleet.process.stop_timeout=2s"];
    stack.expect_exit(0, &recover).await?;
    stack.wait_until_exited("green").await?;
    traffic.wait_for_requests(traffic.count() + 200).await?;
    ensure_hanging_requests_are_retried(&traffic.stop().await)?;
    let again = stack.expect_exit(0, &["recover"]).await?;
    ensure!(again.stdout.contains("nothing to recover"), "{again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_active_color_is_only_alerted_without_failover() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    monitored.stack.signal_service("green", "STOP")?;
    monitored.receiver.wait_for_alert("down", "green").await?;
    monitored.stack.signal_service("green", "CONT")?;
    monitored.receiver.wait_for_alert("up", "green").await?;
    ensure!(monitored.stack.status().await?["active"] == "green");
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_causes_only_its_end_and_refused_candidate_never_stands_in() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    let run = monitored
        .stack
        .run_deployer(&["deploy", "never-healthy", "--set", "health.stall=2400ms"])
        .await?;
    ensure!(run.code == 10, "{run:?}");
    monitored.stack.expect_exit(0, &["deploy", "v1"]).await?;
    wait_until(async || Ok(monitored.receiver.alerts().len() >= 2)).await?;
    let kinds = monitored.receiver.kinds();
    ensure!(
        kinds == ["refused", "promoted"],
        "{:?}",
        monitored.receiver.alerts()
    );
    ensure!(monitored.is_fit(BLUE).await?, "blue lost its fit flag");
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_monitor_continues() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    monitored.stack.signal_service("blue", "STOP")?;
    monitored.receiver.wait_for_alert("down", "blue").await?;
    wait_until(async || Ok(!monitored.is_fit(BLUE).await?)).await?;
    let MonitoredStack {
        stack,
        receiver,
        mut monitor,
    } = monitored;
    monitor.kill().await?;
    let monitor = start_monitor(&stack, &receiver, &[])?;
    stack.signal_service("blue", "CONT")?;
    receiver.wait_for_alert("up", "blue").await?;
    let monitored = MonitoredStack {
        stack,
        receiver,
        monitor,
    };
    wait_until(async || monitored.is_fit(BLUE).await).await?;
    ensure!(
        monitored.receiver.alerts().len() == 2,
        "{:?}",
        monitored.receiver.alerts()
    );
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_report_client_requests() -> Result {
    let ports = PortBlock::reserve()?;
    let address = format!("127.0.0.1:{}", ports.metrics());
    let setting = format!("monitor.metrics={address}");
    let monitored = MonitoredStack::start(&["--set", &setting]).await?;
    let metrics = async || get(&address, "/metrics").await;
    // The monitor counts only requests after its start, so its first round must be over before the traffic.
    wait_until(async || {
        let text = metrics().await.unwrap_or_default();
        Ok(text.contains("deployer_active{color=\"green\"} 1"))
    })
    .await?;
    let traffic = monitored.stack.start_traffic(8, PAUSE)?;
    traffic.wait_for_requests(500).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    wait_until(async || {
        let text = metrics().await?;
        let counted = text.lines().find_map(|line| {
            let (family, count) = line.rsplit_once(' ')?;
            let labels = "color=\"green\",version=\"v2\",by=\"clients\",ending=\"answered\"";
            (family == format!("deployer_requests_total{{{labels}}}")).then_some(count)
        });
        let counted: usize = counted.unwrap_or("0").parse()?;
        Ok(counted >= log.requests.len())
    })
    .await?;
    let text = metrics().await?;
    for line in [
        "deployer_active{color=\"green\"} 1",
        "deployer_active{color=\"blue\"} 0",
        "deployer_up{color=\"blue\"} 1",
        "deployer_fit{color=\"blue\"} 1",
        "deployer_deployments_total{outcome=\"promoted\"} 1",
        "deployer_seconds_since_last_deployment ",
        "deployer_request_duration_seconds_bucket{",
    ] {
        ensure!(text.contains(line), "{line} is not in {text}");
    }
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn alert_test_retries_an_undelivered_alert() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let no_receiver = stack.expect_exit(2, &["alert-test"]).await?;
    ensure!(
        no_receiver.stderr.contains("alerts.webhook"),
        "{}",
        no_receiver.stderr
    );
    let receiver = AlertReceiver::start(0).await?;
    let setting = format!("alerts.slack={}", receiver.url());
    stack
        .expect_exit(0, &["alert-test", "--set", &setting])
        .await?;
    let text = receiver.alerts()[0]["text"].to_string();
    ensure!(text.contains("nothing is wrong"), "{text}");
    let rejecting = AlertReceiver::start(1).await?;
    let setting = format!("alerts.webhook={}", rejecting.url());
    let run = stack
        .expect_exit(1, &["alert-test", "--set", &setting])
        .await?;
    ensure!(run.stderr.contains("it answered 503"), "{}", run.stderr);
    ensure!(
        !run.stderr.contains(&rejecting.url()),
        "the message contains the webhook's address, which is a secret: {}",
        run.stderr
    );

    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let rejecting_twice = AlertReceiver::start(2).await?;
    let monitor = start_monitor(&stack, &rejecting_twice, &[])?;
    stack.signal_service("green", "STOP")?;
    rejecting_twice.wait_for_alert("down", "green").await?;
    drop(monitor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_down_is_alerted_and_colors_stay_monitored() -> Result {
    let ports = PortBlock::reserve()?;
    let address = format!("127.0.0.1:{}", ports.metrics());
    let setting = format!("monitor.metrics={address}");
    let monitored = MonitoredStack::start(&["--set", &setting]).await?;
    let metrics_contain = async |line: &str| Ok(get(&address, "/metrics").await?.contains(line));
    monitored.stack.signal_service("router", "TERM")?;
    monitored.stack.wait_until_exited("router").await?;
    let wait_for_router_alert = |kind: &'static str| {
        let receiver = &monitored.receiver;
        wait_until(async move || {
            let matches = |alert: &Value| alert["kind"] == kind && alert["color"].is_null();
            Ok(receiver.alerts().iter().any(matches))
        })
    };
    wait_for_router_alert("down").await?;
    wait_until(async || metrics_contain("deployer_router_up 0").await).await?;
    monitored.stack.signal_service("blue", "KILL")?;
    monitored.receiver.wait_for_alert("down", "blue").await?;
    wait_until(async || metrics_contain("deployer_up{color=\"blue\"} 0").await).await?;
    wait_until(async || metrics_contain("deployer_fit{color=\"blue\"} 0").await).await?;
    wait_until(async || metrics_contain("deployer_active{color=\"green\"} 1").await).await?;
    monitored.stack.expect_exit(0, &["up"]).await?;
    wait_for_router_alert("up").await?;
    monitored.receiver.wait_for_alert("up", "blue").await?;
    wait_until(async || monitored.is_fit(BLUE).await).await?;
    wait_until(async || metrics_contain("deployer_router_up 1").await).await?;
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn router_that_cannot_store_bodies_is_alerted_once() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    let stack = &monitored.stack;
    // nginx writes bodies over 64 KiB into this directory.
    fs::remove_dir_all(stack.path("run/bodies"))?;
    let address = stack.router_address().to_string();
    let body = format!("{{\"text\": \"{}\"}}", "a".repeat(100_000));
    let alerts = || {
        let alerts = monitored.receiver.alerts().into_iter();
        let alerts = alerts.filter(|alert| alert["kind"] == "router_errors");
        alerts.collect::<Vec<Value>>()
    };
    // The monitor counts only requests after its first round.
    wait_until(async || {
        let status = post(&address, "/predict", "Accept: */*", &body).await?;
        ensure!(status == 503, "the router stored the body: {status}");
        Ok(!alerts().is_empty())
    })
    .await?;
    let text = alerts()[0]["text"].to_string();
    ensure!(text.contains("503 on POST /predict ("), "{text}");
    // An alert about a color shows that the monitor read the later errors too.
    for _ in 0..10 {
        post(&address, "/predict", "Accept: */*", &body).await?;
    }
    stack.signal_service("blue", "STOP")?;
    monitored.receiver.wait_for_alert("down", "blue").await?;
    ensure!(alerts().len() == 1, "{:?}", alerts());
    let status = stack.status().await?;
    let clients = &status["colors"][GREEN]["clients"];
    let by_router = clients["endings"]["by_router"].as_u64();
    ensure!(by_router > Some(10), "{status}");
    ensure!(clients["failed"] == 0, "{status}");
    monitored.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn undelivered_alert_is_sent_by_next_monitor() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    let MonitoredStack {
        stack, mut monitor, ..
    } = monitored;
    monitor.kill().await?;
    let rejecting = AlertReceiver::start(usize::MAX).await?;
    let mut monitor = start_monitor(&stack, &rejecting, &[])?;
    stack.signal_service("blue", "STOP")?;
    wait_until(async || Ok(!undelivered(&stack)?.is_empty())).await?;
    monitor.kill().await?;
    let undelivered_alerts = undelivered(&stack)?;
    ensure!(
        undelivered_alerts[0]["kind"] == "down",
        "{undelivered_alerts:?}"
    );
    let receiver = AlertReceiver::start(0).await?;
    let monitor = start_monitor(&stack, &receiver, &[])?;
    receiver.wait_for_alert("down", "blue").await?;
    ensure!(
        receiver.alerts()[0]["id"] == undelivered_alerts[0]["id"],
        "{undelivered_alerts:?}"
    );
    stack.signal_service("blue", "CONT")?;
    receiver.wait_for_alert("up", "blue").await?;
    ensure!(receiver.alerts().len() == 2, "{:?}", receiver.alerts());
    wait_until(async || Ok(undelivered(&stack)?.is_empty())).await?;
    MonitoredStack {
        stack,
        receiver,
        monitor,
    }
    .stop()
    .await
}

/// Returns the undelivered alerts for the webhook, oldest first.
fn undelivered(stack: &Stack) -> Result<Vec<Value>> {
    let files = fs::read_dir(stack.path("state/notifications/webhook"));
    let paths = files
        .into_iter()
        .flatten()
        .flatten()
        .map(|file| file.path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
        .collect();
    paths.sort();
    // The monitor may remove a file before it is read.
    let texts = paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    texts.map(|text| Ok(serde_json::from_str(&text)?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_command_is_alerted_once() -> Result {
    let monitored = MonitoredStack::start(&[]).await?;
    let stack = &monitored.stack;
    // Commands that end normally, and a standby that loses its fit flag, are no interrupted command.
    stack.signal_service("blue", "STOP")?;
    monitored.receiver.wait_for_alert("down", "blue").await?;
    wait_until(async || Ok(!monitored.is_fit(BLUE).await?)).await?;
    stack
        .expect_exit(10, &["validate", "--set", "probe.timeout=300ms"])
        .await?;
    let hook = ["deploy", "v1", "--set", "hooks.before.starting=[\"false\"]"];
    stack.expect_exit(10, &hook).await?;
    stack.signal_service("blue", "CONT")?;
    monitored.receiver.wait_for_alert("up", "blue").await?;
    wait_until(async || monitored.is_fit(BLUE).await).await?;

    let kill = [("DEPLOYER_KILL_AT", "after journal switched".as_ref())];
    let deployer = stack.start_deployer_with(&["deploy", "v1"], &kill)?;
    Stack::wait_for_exit(deployer, &["deploy", "v1"]).await?;
    let count_interrupted = || {
        let alerts = monitored.receiver.alerts();
        alerts
            .iter()
            .filter(|it| it["kind"] == "interrupted")
            .count()
    };
    wait_until(async || Ok(count_interrupted() == 1)).await?;
    stack.expect_exit(0, &["recover"]).await?;
    ensure!(count_interrupted() == 1);
    ensure!(stack.status().await?["active"] == "green");
    monitored.stop().await
}

/// Waits for a condition. Fails after 30 s.
async fn wait_until(mut condition: impl AsyncFnMut() -> Result<bool>) -> Result {
    let wait = async {
        while !condition().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .context("the condition did not hold within 30 s")?
}
