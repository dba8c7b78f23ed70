//! Three routers on machines of their own switch as one, also while something fails.

#![expect(
    clippy::print_stderr,
    reason = "the figures are results, and a test that is left out must say so"
)]

mod cluster;
mod faults;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use deployer::color::Color;
use end_to_end::TrafficLog;

use self::cluster::{Cluster, Result};

const RELEASES: [(&str, &str); 2] = [("green", "v2"), ("blue", "v1")];
/// 60 connections send about 800 requests per second, if the machine can answer them.
const CONNECTIONS: usize = 20;
const PAUSE: Duration = Duration::from_millis(60);

/// Moves traffic back and forth under load over all routers. Prints what a switch costs.
async fn switch_repeatedly(switches: usize) -> Result {
    let Some(cluster) = Cluster::start().await? else {
        return Ok(());
    };
    let traffic: Vec<_> = (1..=3)
        .map(|number| cluster.start_traffic(number, CONNECTIONS, PAUSE))
        .collect::<Result<_>>()?;
    let began = Instant::now();
    let mut commands = Vec::new();
    for number in 0..switches {
        let (color, version) = RELEASES[number % 2];
        let started = Instant::now();
        let run = cluster.expect_exit(0, &["switch", color]).await?;
        for clients in &traffic {
            clients
                .wait_for_requests(clients.count() + CONNECTIONS)
                .await?;
        }
        commands.push((version, started, run.returned, Instant::now()));
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut all = TrafficLog::default();
    for clients in traffic {
        let log = clients.stop().await;
        log.ensure_none_failed()?;
        all.requests.extend(log.requests);
    }
    for (version, _, returned, until) in &commands {
        all.between(*returned, *until)
            .ensure_answered_only_by(version)?;
    }
    let took = commands
        .iter()
        .map(|(_, started, returned, _)| *returned - *started);
    let mixed = commands
        .iter()
        .filter_map(|(version, started, returned, _)| {
            mixed_window(&all, version, *started, *returned)
        });
    let per_second = f64::from(u32::try_from(all.requests.len())?) / seconds;
    eprintln!(
        "{switches} switches, {} requests ({per_second:.0}/s), 0 failed; command {}; mixed window {}",
        all.requests.len(),
        percentiles(took.collect())?,
        percentiles(mixed.collect())?,
    );
    Ok(())
}

/// Returns from when the first client had an answer of `version` until when the last client sent a request that the other
/// version answered; zero if no answers mixed, and `None` if no client saw the switch.
fn mixed_window(
    log: &TrafficLog,
    version: &str,
    started: Instant,
    returned: Instant,
) -> Option<Duration> {
    let during = log
        .requests
        .iter()
        .filter(|it| it.started >= started && it.started <= returned);
    let (new, old): (Vec<_>, Vec<_>) = during.partition(|it| it.outcome.as_deref() == Ok(version));
    let first_new = new.iter().map(|it| it.started + it.duration).min()?;
    let last_old = old.iter().map(|it| it.started).max()?;
    Some(last_old.saturating_duration_since(first_new))
}

fn percentiles(mut durations: Vec<Duration>) -> Result<String> {
    durations.sort_unstable();
    let last = durations.len().checked_sub(1).context("no durations")?;
    let [half, most, all] = [50, 99, 100].map(|percent| durations[last * percent / 100]);
    Ok(format!("p50 {half:.1?}, p99 {most:.1?}, longest {all:.1?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn switches_over_three_routers_fail_no_request() -> Result {
    switch_repeatedly(30).await
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_router_refuses_a_deployment_and_not_a_rollback() -> Result {
    let Some(cluster) = Cluster::start().await? else {
        return Ok(());
    };
    cluster.set_plugged(3, false)?;
    let refused = cluster.expect_exit(10, &["switch", "green"]).await?;
    ensure!(refused.output.contains("r3"), "{refused:?}");
    for number in 1..=3 {
        // Nothing is prepared any more, so silence closes no router.
        cluster.wait_for_answer(number, 200, "v1").await?;
    }
    ensure!(cluster.truth().await?.prepared.is_none());
    cluster.set_plugged(3, true)?;
    cluster.expect_exit(0, &["deploy", "v2"]).await?;
    for number in 1..=3 {
        cluster.wait_for_answer(number, 200, "v2").await?;
    }

    cluster.set_plugged(3, false)?;
    let run = cluster.expect_exit(0, &["rollback"]).await?;
    ensure!(
        run.output.contains("r3"),
        "the silent router must be named: {run:?}"
    );
    for number in [1, 2] {
        cluster.wait_for_answer(number, 200, "v1").await?;
    }
    // A router that hears nothing cannot know.
    cluster.wait_for_answer(3, 200, "v2").await?;
    cluster.set_plugged(3, true)?;
    cluster.wait_for_answer(3, 200, "v1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_router_blocks_no_switch_and_follows_when_it_is_back() -> Result {
    let Some(cluster) = Cluster::start().await? else {
        return Ok(());
    };
    let refused = cluster.expect_exit(10, &["remove-router", "r3"]).await?;
    ensure!(refused.output.contains("r3 answers"), "{refused:?}");
    cluster.set_plugged(3, false)?;
    let refused = cluster.expect_exit(10, &["remove-router", "r4"]).await?;
    ensure!(refused.output.contains("r1, r2, r3"), "{refused:?}");
    cluster.expect_exit(0, &["remove-router", "r3"]).await?;
    cluster.expect_exit(0, &["switch", "green"]).await?;
    for number in [1, 2] {
        cluster.wait_for_answer(number, 200, "v2").await?;
    }
    cluster.set_plugged(3, true)?;
    cluster.wait_for_answer(3, 200, "v2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_by_hand_is_kept_by_the_next_rollback() -> Result {
    let Some(mut cluster) = Cluster::start().await? else {
        return Ok(());
    };
    cluster.expect_exit(0, &["deploy", "v2"]).await?;
    cluster.kill_store().await?;
    for number in 1..=3 {
        cluster.roll_back_by_hand(number)?;
        cluster.wait_for_answer(number, 200, "v1").await?;
    }
    cluster.start_store().await?;
    let refused = cluster.expect_exit(10, &["deploy", "v2"]).await?;
    let disagreement = "its nginx says blue is active; the store says green";
    ensure!(refused.output.contains(disagreement), "{refused:?}");
    cluster.expect_exit(0, &["rollback"]).await?;
    for number in 1..=3 {
        cluster.wait_for_answer(number, 200, "v1").await?;
    }
    ensure!(cluster.truth().await?.flags.active == Color::Blue);
    cluster.expect_exit(0, &["deploy", "v2"]).await?;
    cluster.wait_for_answer(1, 200, "v2").await
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_at_any_moment_of_a_switch_leave_no_two_colors() -> Result {
    faults::inject(14).await
}

mod slow {
    use super::{Result, faults, switch_repeatedly};

    #[tokio::test(flavor = "multi_thread")]
    async fn thousand_switches_over_three_routers_fail_no_request() -> Result {
        switch_repeatedly(1_000).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn many_faults_at_any_moment_of_a_switch_leave_no_two_colors() -> Result {
        faults::inject(210).await
    }
}
