//! Time limits that contradict each other.

use std::time::Duration;

use humantime::format_duration;

use crate::{
    color::Color,
    config::{FleetKind, Settings},
    deployment::stopping::{Contradiction, contradictions},
    doctor::finding::Finding,
    ports::{Ports, RouterLimits, Target},
    release::TimeLimits,
};

const TOPIC: &str = "time limits";

/// Compares the time limits of the settings, the router, and the servers that run.
pub(crate) async fn time_limits(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    let (mut findings, router) = of_the_files(settings, ports).await;
    for color in Color::BOTH {
        if let Some(killed_after) = ports.fleet.stop_timeout(color).await {
            findings.extend(stop_timeout(settings, color, killed_after));
            let health = ports.probe.health(Target::Server(color)).await;
            let server = health.ok().and_then(|health| health.time_limits);
            findings.extend(stopping(settings, color, killed_after, server));
            let of_server = server.map(|server| of_a_server(color, server, router));
            findings.extend(of_server.into_iter().flatten());
        }
    }
    or_fine(findings)
}

/// The same without asking a server or an engine.
pub(crate) async fn of_configuration(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    let mut findings = if settings.routers.are_used() {
        of_the_settings(settings)
    } else {
        of_the_files(settings, ports).await.0
    };
    for color in Color::BOTH {
        if let Some(killed_after) = ports.fleet.configured_stop_timeout(color).await {
            findings.extend(stop_timeout(settings, color, killed_after));
            findings.extend(stopping(settings, color, killed_after, None));
        }
    }
    or_fine(findings)
}

/// The contradictions within the settings and the router's files, and the router's limits.
async fn of_the_files(settings: &Settings, ports: &Ports) -> (Vec<Finding>, Option<RouterLimits>) {
    let mut findings = of_the_settings(settings);
    let router = match ports.router.limits().await {
        Ok(router) => router,
        Err(error) => {
            findings.push(Finding::wrong(
                TOPIC,
                error.to_string(),
                "correct router.configuration",
            ));
            None
        }
    };
    if let Some(router) = router {
        findings.extend(of_the_router(settings, router));
    }
    (findings, router)
}

fn or_fine(mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.is_empty() {
        findings.push(Finding::fine(TOPIC, "none contradicts another"));
    }
    findings
}

/// A finding, unless the condition holds.
fn unless(holds: bool, text: String, advice: &str) -> Option<Finding> {
    (!holds).then(|| Finding::wrong(TOPIC, text, advice))
}

fn of_the_settings(settings: &Settings) -> Vec<Finding> {
    let (load, bake) = (&settings.load, &settings.bake);
    let detection = bake.failures * (bake.interval + settings.probe.timeout);
    let contradictions = [
        unless(
            load.max_p99 <= load.timeout,
            format!(
                "load.max_p99 ({}) is longer than load.timeout ({}), and can never be exceeded",
                format_duration(load.max_p99),
                format_duration(load.timeout)
            ),
            "lower load.max_p99, or raise load.timeout",
        ),
        unless(
            detection <= bake.duration,
            format!(
                "a release that hangs is found after bake.failures × (bake.interval + probe.timeout) = {}, which is longer than bake.duration ({})",
                format_duration(detection),
                format_duration(bake.duration)
            ),
            "raise bake.duration, or lower bake.failures or probe.timeout",
        ),
    ];
    contradictions.into_iter().flatten().collect()
}

fn of_the_router(settings: &Settings, router: RouterLimits) -> Vec<Finding> {
    let load = &settings.load;
    let worst = load.max_p99.mul_f64(settings.headroom.factor);
    let end = router.next_upstream.unwrap_or(Duration::MAX);
    let contradictions = [
        unless(
            load.timeout <= router.read,
            format!(
                "load.timeout ({}) is longer than the router waits ({}): the gate `load` can pass a release whose clients get timeouts",
                format_duration(load.timeout),
                format_duration(router.read)
            ),
            "set load.timeout to at most nginx's proxy_read_timeout",
        ),
        unless(
            worst <= router.read,
            format!(
                "load.max_p99 ({}) times headroom.factor ({}) is longer than the router waits ({}): what passes load can be refused by headroom",
                format_duration(load.max_p99),
                settings.headroom.factor,
                format_duration(router.read)
            ),
            "lower load.max_p99, or raise nginx's proxy_read_timeout",
        ),
        unless(
            router.longest_read < end,
            format!(
                "the router waits {} for a color that hangs (proxy_read_timeout), and tries no other color after {} (proxy_next_upstream_timeout): the standby does not stand in for a color that hangs",
                format_duration(router.longest_read),
                format_duration(end)
            ),
            "set nginx's proxy_next_upstream_timeout above its proxy_read_timeout",
        ),
    ];
    contradictions.into_iter().flatten().collect()
}

/// Whether the deployer waits long enough for a color to stop.
fn stop_timeout(settings: &Settings, color: Color, killed_after: Duration) -> Option<Finding> {
    let timeout = settings.fleet.compose.timeout;
    unless(
        settings.fleet.kind != FleetKind::Compose || killed_after < timeout,
        format!(
            "{color} may take {} to stop (stop_grace_period in compose.yaml), but `docker compose` may take only {} (fleet.compose.timeout): a deployment there fails while the previous release is still stopping",
            format_duration(killed_after),
            format_duration(timeout)
        ),
        "raise fleet.compose.timeout above the stop_grace_period",
    )
}

/// Whether a color has the time to finish its requests when it is stopped.
fn stopping(
    settings: &Settings,
    color: Color,
    killed_after: Duration,
    server: Option<TimeLimits>,
) -> Vec<Finding> {
    let found = contradictions(color, killed_after, server, settings.drain.longest);
    let finding = |found: Contradiction| Finding::wrong(TOPIC, found.text, found.advice);
    found.into_iter().map(finding).collect()
}

fn of_a_server(color: Color, server: TimeLimits, router: Option<RouterLimits>) -> Vec<Finding> {
    let duration = |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default();
    let request = duration(server.request_timeout_seconds);
    let idle = duration(server.idle_timeout_seconds);
    let read = router.map_or(Duration::MAX, |router| router.read);
    let kept = router.and_then(|router| router.upstream_idle);
    let kept = kept.unwrap_or(Duration::ZERO);
    let contradictions = [
        unless(
            request < read,
            format!(
                "{color} answers within {} (REQUEST_TIMEOUT_SECONDS), and the router gives up after {} (proxy_read_timeout): a slow request is sent twice, and its client does not learn why it failed",
                format_duration(request),
                format_duration(read)
            ),
            "lower REQUEST_TIMEOUT_SECONDS and deploy again, or raise nginx's proxy_read_timeout",
        ),
        unless(
            kept < idle,
            format!(
                "{color} closes idle connections after {} (IDLE_TIMEOUT_SECONDS), and the router uses them for {} (keepalive_timeout in an upstream): requests run into connections that are being closed",
                format_duration(idle),
                format_duration(kept)
            ),
            "raise IDLE_TIMEOUT_SECONDS and deploy again, or lower nginx's keepalive_timeout in each upstream",
        ),
    ];
    contradictions.into_iter().flatten().collect()
}
