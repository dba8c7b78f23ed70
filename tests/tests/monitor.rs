//! `deployer monitor`: alerts and actions when a color goes down, unnoticed by clients.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{AlertReceiver, BakeDuration, DeployerRun, PortBlock, Stack, TrafficLog, get};
use serde_json::Value;
use tokio::process::Child;

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));
const PAUSE: Duration = Duration::from_millis(20);
/// The time within which an alert must arrive.
const SOON: Duration = Duration::from_secs(15);

type Result<T = ()> = anyhow::Result<T>;

/// v2 on green has the traffic, v1 on blue is its standby, and a monitor checks both.
struct Monitored {
    stack: Stack,
    receiver: AlertReceiver,
    monitor: Child,
}

impl Monitored {
    async fn begin(more: &[&str]) -> Result<Self> {
        Self::begin_with(&["v2"], more).await
    }

    /// The same, with these releases deployed one after the other.
    async fn begin_with(releases: &[&str], more: &[&str]) -> Result<Self> {
        let stack = Stack::with_processes("faulty-server", SHORT_BAKE)?;
        stack.expect_exit(0, &["up"]).await?;
        for release in releases {
            deploy(&stack, release).await?;
        }
        let receiver = AlertReceiver::start(0).await?;
        let monitor = start(&stack, &receiver, more)?;
        Ok(Self {
            stack,
            receiver,
            monitor,
        })
    }

    /// Stops the monitor like a service, which must not take long.
    async fn end(self) -> Result {
        Stack::signal_deployer(&self.monitor, "TERM")?;
        let run = Stack::wait_for_exit(self.monitor, &["monitor"]).await?;
        ensure!(run.code == 0, "{run:?}");
        Ok(())
    }

    async fn fit(&self, color: usize) -> Result<bool> {
        let status = self.stack.status().await?;
        status["colors"][color]["fit"].as_bool().context("no flag")
    }
}

/// Without clients the bake ends inconclusively.
async fn deploy(stack: &Stack, release: &str) -> Result<DeployerRun> {
    let deploy = ["deploy", release, "--set", "bake.on_inconclusive=promote"];
    stack.expect_exit(0, &deploy).await
}

/// Detects within seconds that a color is down.
const QUICK: [&str; 4] = [
    "--set",
    "monitor.interval=200ms",
    "--set",
    "probe.timeout=1s",
];

fn start(stack: &Stack, receiver: &AlertReceiver, more: &[&str]) -> Result<Child> {
    let url = receiver.url();
    stack.start_deployer_with(
        &[&["monitor"], &QUICK[..], more].concat(),
        &[("DEPLOYER_ALERTS_WEBHOOK", url.as_ref())],
    )
}

const BLUE: usize = 0;
const GREEN: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn frozen_standby_loses_fit_flag_until_well() -> Result {
    let watched = Monitored::begin(&[]).await?;
    let traffic = watched.stack.start_traffic(8, PAUSE)?;
    ensure!(watched.fit(BLUE).await?, "v1 was promoted");
    watched.stack.signal_service("blue", "STOP")?;
    let took = watched.receiver.wait_for_alert("down", "blue").await?;
    ensure!(took < SOON, "{took:?}");
    ensure!(!watched.fit(BLUE).await?, "the flag is still there");
    watched.stack.signal_service("blue", "CONT")?;
    watched.receiver.wait_for_alert("up", "blue").await?;
    until(async || watched.fit(BLUE).await).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v2")?;
    let alerts = watched.receiver.alerts();
    ensure!(alerts.len() == 2, "each is said once: {alerts:?}");
    ensure!(alerts[0]["schema"] == 1, "{alerts:?}");
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_standby_is_restarted_with_restart_standby() -> Result {
    // Its fit flag is gone before it is healthy again.
    let slow_to_trust = ["--set", "monitor.rise=10"];
    let restart = ["--set", "monitor.restart_standby=true"];
    let watched = Monitored::begin(&[restart, slow_to_trust].concat()).await?;
    let traffic = watched.stack.start_traffic(8, PAUSE)?;
    watched.stack.signal_service("blue", "KILL")?;
    let took = watched.receiver.wait_for_alert("down", "blue").await?;
    ensure!(took < SOON, "{took:?}");
    until(async || Ok(!watched.fit(BLUE).await?)).await?;
    watched.receiver.wait_for_alert("up", "blue").await?;
    until(async || watched.fit(BLUE).await).await?;
    traffic.stop().await.ensure_none_failed()?;
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_standby_loses_fit_flag_until_fast() -> Result {
    let watched = Monitored::begin_with(&["slow-after-signal", "v1"], &[]).await?;
    let traffic = watched.stack.start_traffic(8, PAUSE)?;
    ensure!(watched.fit(GREEN).await?, "it was promoted");
    watched.stack.signal_service("green", "USR1")?;
    let took = watched.receiver.wait_for_alert("down", "green").await?;
    ensure!(took < SOON, "{took:?}");
    until(async || Ok(!watched.fit(GREEN).await?)).await?;
    watched.stack.signal_service("green", "USR1")?;
    let took = watched.receiver.wait_for_alert("up", "green").await?;
    ensure!(took < SOON, "{took:?}");
    until(async || watched.fit(GREEN).await).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    log.ensure_answered_only_by("v1")?;
    let alerts = watched.receiver.alerts();
    ensure!(alerts.len() == 2, "each is said once: {alerts:?}");
    watched.end().await
}

/// Settings that stop a frozen color before clients time out.
const FAILOVER: [&str; 4] = [
    "--set",
    "monitor.failover=true",
    "--set",
    "fleet.process.stop_timeout=2s",
];
/// nginx's `proxy_read_timeout`.
const READ_TIMEOUT: Duration = Duration::from_mins(2);

/// Requests hung on a frozen color, and the other color answered them long before nginx's timeout.
fn ensure_repeated_in_time(log: &TrafficLog) -> Result {
    log.ensure_none_failed()?;
    let longest = log.requests.iter().map(|request| request.duration).max();
    let longest = longest.context("no request was made")?;
    ensure!(longest > Duration::from_secs(2), "none hung: {longest:?}");
    ensure!(longest < READ_TIMEOUT / 2, "{longest:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_leaves_a_frozen_active_color() -> Result {
    let watched = Monitored::begin(&FAILOVER).await?;
    let stack = &watched.stack;
    let traffic = stack.start_traffic(8, PAUSE)?;
    traffic.wait_for_requests(200).await?;
    let frozen = Instant::now();
    stack.signal_service("green", "STOP")?;
    watched.receiver.wait_for_alert("down", "green").await?;
    watched.receiver.wait_for_alert("failover", "blue").await?;
    ensure!(frozen.elapsed() < SOON, "{:?}", frozen.elapsed());
    stack.wait_until_exited("green").await?;
    let stopped = Instant::now();
    traffic.wait_for_requests(traffic.count() + 200).await?;
    let log = traffic.stop().await;
    ensure_repeated_in_time(&log)?;
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
    let alerts = watched.receiver.alerts();
    let text = alerts.last().context("no alert")?["text"].to_string();
    ensure!(text.contains("what still runs of it is stopped"), "{text}");
    // Once healthy, it is the standby.
    stack.expect_exit(0, &["up"]).await?;
    watched.receiver.wait_for_alert("up", "green").await?;
    until(async || watched.fit(GREEN).await).await?;
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_color_is_restarted_as_standby_after_failover() -> Result {
    let restart = ["--set", "monitor.restart_standby=true"];
    let watched = Monitored::begin(&[&FAILOVER[..], &restart].concat()).await?;
    let traffic = watched.stack.start_traffic(8, PAUSE)?;
    watched.stack.signal_service("green", "STOP")?;
    watched.receiver.wait_for_alert("failover", "blue").await?;
    watched.receiver.wait_for_alert("up", "green").await?;
    until(async || watched.fit(GREEN).await).await?;
    ensure_repeated_in_time(&traffic.stop().await)?;
    let alerts = watched.receiver.alerts();
    ensure!(
        alerts.len() == 3,
        "what is under way is not interrupted: {alerts:?}"
    );
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_waits_for_a_monitor_that_stops_a_color() -> Result {
    let long = ["--set", "fleet.process.stop_timeout=5s"];
    let watched = Monitored::begin(&[&FAILOVER[..], &long].concat()).await?;
    watched.stack.signal_service("green", "STOP")?;
    watched.receiver.wait_for_alert("failover", "blue").await?;
    let run = deploy(&watched.stack, "v2").await?;
    ensure!(run.stderr.contains("waiting for `monitor` by"), "{run:?}");
    ensure!(!run.stderr.contains("was interrupted"), "{run:?}");
    ensure!(watched.stack.status().await?["active"] == "green");
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_color_is_stopped_by_next_command_when_monitor_was_killed() -> Result {
    let Monitored {
        stack, mut monitor, ..
    } = Monitored::begin(&[]).await?;
    monitor.kill().await?;
    let traffic = stack.start_traffic(8, PAUSE)?;
    traffic.wait_for_requests(200).await?;
    let at = [("DEPLOYER_KILL_AT", "after flag green off".as_ref())];
    let monitor =
        stack.start_deployer_with(&[&["monitor"], &QUICK[..], &FAILOVER[..]].concat(), &at)?;
    stack.signal_service("green", "STOP")?;
    Stack::wait_for_exit(monitor, &["monitor"]).await?;
    let recover = ["recover", "--set", "fleet.process.stop_timeout=2s"];
    stack.expect_exit(0, &recover).await?;
    stack.wait_until_exited("green").await?;
    traffic.wait_for_requests(traffic.count() + 200).await?;
    ensure_repeated_in_time(&traffic.stop().await)?;
    let again = stack.expect_exit(0, &["recover"]).await?;
    ensure!(again.stdout.contains("nothing to recover"), "{again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_active_color_is_only_alerted_without_failover() -> Result {
    let watched = Monitored::begin(&[]).await?;
    watched.stack.signal_service("green", "STOP")?;
    watched.receiver.wait_for_alert("down", "green").await?;
    watched.stack.signal_service("green", "CONT")?;
    watched.receiver.wait_for_alert("up", "green").await?;
    ensure!(watched.stack.status().await?["active"] == "green");
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn deployment_causes_no_alert_and_refused_candidate_never_stands_in() -> Result {
    let watched = Monitored::begin(&[]).await?;
    let run = watched
        .stack
        .run_deployer(&["deploy", "never-healthy", "--set", "health.tries=8"])
        .await?;
    ensure!(run.code == 10, "{run:?}");
    watched.stack.expect_exit(0, &["deploy", "v1"]).await?;
    let alerts = watched.receiver.alerts();
    ensure!(alerts.is_empty(), "{alerts:?}");
    ensure!(watched.fit(BLUE).await?, "v1 was promoted");
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_monitor_continues() -> Result {
    let watched = Monitored::begin(&[]).await?;
    watched.stack.signal_service("blue", "STOP")?;
    watched.receiver.wait_for_alert("down", "blue").await?;
    until(async || Ok(!watched.fit(BLUE).await?)).await?;
    let Monitored {
        stack,
        receiver,
        mut monitor,
    } = watched;
    monitor.kill().await?;
    let monitor = start(&stack, &receiver, &[])?;
    stack.signal_service("blue", "CONT")?;
    receiver.wait_for_alert("up", "blue").await?;
    let watched = Monitored {
        stack,
        receiver,
        monitor,
    };
    until(async || watched.fit(BLUE).await).await?;
    ensure!(
        watched.receiver.alerts().len() == 2,
        "{:?}",
        watched.receiver.alerts()
    );
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_report_client_requests() -> Result {
    let ports = PortBlock::reserve()?;
    let address = format!("127.0.0.1:{}", ports.metrics());
    let setting = format!("monitor.metrics={address}");
    let watched = Monitored::begin(&["--set", &setting]).await?;
    let metrics = async || get(&address, "/metrics").await;
    // The monitor ignores requests that were logged before it started: its first round must be over.
    until(async || {
        let text = metrics().await.unwrap_or_default();
        Ok(text.contains("deployer_active{color=\"green\"} 1"))
    })
    .await?;
    let traffic = watched.stack.start_traffic(8, PAUSE)?;
    traffic.wait_for_requests(500).await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    until(async || {
        let text = metrics().await?;
        let counted = text.lines().find_map(|line| {
            line.strip_prefix("deployer_requests_total{color=\"green\",version=\"v2\"} ")
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
        "# EOF",
    ] {
        ensure!(text.contains(line), "{line} is not in {text}");
    }
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn alert_test_retries_an_undelivered_alert() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let nobody = stack.expect_exit(2, &["alert-test"]).await?;
    ensure!(
        nobody.stderr.contains("alerts.webhook"),
        "{}",
        nobody.stderr
    );
    let receiver = AlertReceiver::start(0).await?;
    let setting = format!("alerts.slack={}", receiver.url());
    stack
        .expect_exit(0, &["alert-test", "--set", &setting])
        .await?;
    let text = receiver.alerts()[0]["text"].to_string();
    ensure!(text.contains("nothing is wrong"), "{text}");
    let deaf = AlertReceiver::start(1).await?;
    let setting = format!("alerts.webhook={}", deaf.url());
    let run = stack
        .expect_exit(1, &["alert-test", "--set", &setting])
        .await?;
    ensure!(run.stderr.contains("it answered 503"), "{}", run.stderr);
    ensure!(
        !run.stderr.contains(&deaf.url()),
        "the address is a secret: {}",
        run.stderr
    );

    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let busy = AlertReceiver::start(2).await?;
    let monitor = start(&stack, &busy, &[])?;
    stack.signal_service("green", "STOP")?;
    busy.wait_for_alert("down", "green").await?;
    drop(monitor);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_down_is_alerted_and_colors_stay_monitored() -> Result {
    let ports = PortBlock::reserve()?;
    let address = format!("127.0.0.1:{}", ports.metrics());
    let setting = format!("monitor.metrics={address}");
    let watched = Monitored::begin(&["--set", &setting]).await?;
    let shows = async |line: &str| Ok(get(&address, "/metrics").await?.contains(line));
    watched.stack.signal_service("router", "TERM")?;
    watched.stack.wait_until_exited("router").await?;
    let of_the_router = |kind: &'static str| {
        let receiver = &watched.receiver;
        until(async move || {
            let is_it = |alert: &Value| alert["kind"] == kind && alert["color"].is_null();
            Ok(receiver.alerts().iter().any(is_it))
        })
    };
    of_the_router("down").await?;
    until(async || shows("deployer_router_up 0").await).await?;
    watched.stack.signal_service("blue", "KILL")?;
    watched.receiver.wait_for_alert("down", "blue").await?;
    until(async || shows("deployer_up{color=\"blue\"} 0").await).await?;
    until(async || shows("deployer_fit{color=\"blue\"} 0").await).await?;
    until(async || shows("deployer_active{color=\"green\"} 1").await).await?;
    watched.stack.expect_exit(0, &["up"]).await?;
    of_the_router("up").await?;
    watched.receiver.wait_for_alert("up", "blue").await?;
    until(async || watched.fit(BLUE).await).await?;
    until(async || shows("deployer_router_up 1").await).await?;
    watched.end().await
}

#[tokio::test(flavor = "multi_thread")]
async fn undelivered_alert_is_sent_by_next_monitor() -> Result {
    let watched = Monitored::begin(&[]).await?;
    let Monitored {
        stack, mut monitor, ..
    } = watched;
    monitor.kill().await?;
    let deaf = AlertReceiver::start(usize::MAX).await?;
    let mut monitor = start(&stack, &deaf, &[])?;
    stack.signal_service("blue", "STOP")?;
    until(async || Ok(read(&stack, "state/alerts.json").contains("\"down\""))).await?;
    monitor.kill().await?;
    let kept: Value = serde_json::from_str(&read(&stack, "state/alerts.json"))?;
    let receiver = AlertReceiver::start(0).await?;
    let monitor = start(&stack, &receiver, &[])?;
    receiver.wait_for_alert("down", "blue").await?;
    ensure!(receiver.alerts()[0]["at"] == kept[0][1]["at"], "{kept}");
    stack.signal_service("blue", "CONT")?;
    receiver.wait_for_alert("up", "blue").await?;
    ensure!(receiver.alerts().len() == 2, "{:?}", receiver.alerts());
    until(async || Ok(read(&stack, "state/alerts.json") == "[]")).await?;
    Monitored {
        stack,
        receiver,
        monitor,
    }
    .end()
    .await
}

fn read(stack: &Stack, name: &str) -> String {
    fs::read_to_string(stack.path(name)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_command_is_alerted_once() -> Result {
    let watched = Monitored::begin(&[]).await?;
    let stack = &watched.stack;
    // A standby lost its flag because it was sick, while other commands hold and release the lock.
    stack.signal_service("blue", "STOP")?;
    watched.receiver.wait_for_alert("down", "blue").await?;
    until(async || Ok(!watched.fit(BLUE).await?)).await?;
    stack
        .expect_exit(10, &["validate", "--set", "probe.timeout=300ms"])
        .await?;
    let hook = ["deploy", "v1", "--set", "hooks.before.starting=[\"false\"]"];
    stack.expect_exit(10, &hook).await?;
    stack.signal_service("blue", "CONT")?;
    watched.receiver.wait_for_alert("up", "blue").await?;
    until(async || watched.fit(BLUE).await).await?;

    let at = [("DEPLOYER_KILL_AT", "after journal switched".as_ref())];
    let deployer = stack.start_deployer_with(&["deploy", "v1"], &at)?;
    Stack::wait_for_exit(deployer, &["deploy", "v1"]).await?;
    let interrupted = || {
        let alerts = watched.receiver.alerts();
        alerts
            .iter()
            .filter(|it| it["kind"] == "interrupted")
            .count()
    };
    until(async || Ok(interrupted() == 1)).await?;
    stack.expect_exit(0, &["recover"]).await?;
    ensure!(interrupted() == 1);
    ensure!(stack.status().await?["active"] == "green");
    watched.end().await
}

/// Waits for a condition.
async fn until(mut holds: impl AsyncFnMut() -> Result<bool>) -> Result {
    let wait = async {
        while !holds().await? {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .context("it did not come to hold within 30 s")?
}
