//! The whole way, on real nginx and real model servers, with processes instead of containers.

use std::time::{Duration, Instant};

use anyhow::ensure;
use end_to_end::{Log, Run, Stack, Watch};

const CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(5);
const SHORT: Watch = Watch(Duration::from_secs(2));
/// Long enough that a fault shows up in it, also on a slow machine.
const LONG: Watch = Watch(Duration::from_secs(30));

type Result<T = ()> = anyhow::Result<T>;

fn assert_none_failed(log: &Log) {
    assert!(
        log.failures().is_empty(),
        "of {} requests: {:?}",
        log.answers.len(),
        log.failures()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_moves_there_and_back_twice_without_a_failed_or_late_request() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(1_000).await?;
    // Between the end of one command and the beginning of the next, only this version may answer.
    let mut reigns = Vec::new();
    for round in 1..=2 {
        for (command, version) in [(["deploy", "v2"].as_slice(), "v2"), (&["rollback"], "v1")] {
            let run = stack.expect(0, command).await?;
            traffic.reach(traffic.count() + 3_000).await?;
            reigns.push((round, version, run.returned, Instant::now()));
        }
    }
    traffic.reach(20_000).await?;
    let log = traffic.stop().await;

    assert_none_failed(&log);
    assert!(log.answers.len() >= 20_000);
    for (round, version, from, until) in reigns {
        let answered = log.between(from, until);
        assert_eq!(
            answered.by_version().into_keys().collect::<Vec<_>>(),
            [version],
            "round {round}: {:?}",
            answered.by_version()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_by_hand_is_in_force_for_the_next_request() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    let mut reigns = Vec::new();
    for _ in 0..5 {
        for (color, version) in [("green", "v2"), ("blue", "v1")] {
            let run = stack.expect(0, &["switch", color]).await?;
            traffic.reach(traffic.count() + 300).await?;
            reigns.push((version, run.returned, Instant::now()));
        }
    }
    let log = traffic.stop().await;
    assert_none_failed(&log);
    for (version, from, until) in reigns {
        assert_eq!(
            log.between(from, until)
                .by_version()
                .into_keys()
                .collect::<Vec<_>>(),
            [version]
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_deployment_goes_to_the_other_color() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.expect(0, &["deploy", "v2"]).await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][1]["model_version"] == "v2", "{status}");
    ensure!(status["can_roll_back"] == true, "{status}");
    stack.expect(0, &["deploy", "v1"]).await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][0]["model_version"] == "v1", "{status}");
    Ok(())
}

/// Deploys a candidate that must be refused, under traffic that must not notice.
async fn refused(version: &str, because: &str) -> Result {
    let stack = Stack::of_processes("faulty-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, PAUSE)?;
    let run = stack
        .expect(10, &["deploy", version, "--health-tries", "5"])
        .await?;
    traffic.reach(traffic.count() + 200).await?;
    let log = traffic.stop().await;

    ensure!(run.stderr.contains(because), "{}", run.stderr);
    assert_none_failed(&log);
    assert_eq!(log.by_version().into_keys().collect::<Vec<_>>(), ["v1"]);
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["last_deployment"]["phase"] == "refused", "{status}");
    ensure!(
        stack.logged_for("green")? == 0,
        "some request was meant for the candidate"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_never_becomes_healthy_is_refused() -> Result {
    refused("never-healthy", "not healthy after 5 tries").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_reports_another_version_is_refused() -> Result {
    refused(
        "other-version",
        "it reports version stale, but other-version is wanted",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_candidate_that_fails_a_tenth_of_the_test_requests_is_refused() -> Result {
    refused(
        "every-tenth",
        "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)",
    )
    .await
}

/// Deploys a release that goes bad after the switch; what clients saw is for the caller to judge.
async fn rolled_back(version: &str, because: &[&str]) -> Result<(Stack, Run, Log)> {
    let stack = Stack::of_processes("faulty-server", LONG)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(500).await?;
    let run = stack.expect(20, &["deploy", version]).await?;
    let after = Instant::now();
    traffic.reach(traffic.count() + 500).await?;
    let log = traffic.stop().await;

    let status = stack.status().await?;
    let reason = status["last_deployment"]["reason"].to_string();
    ensure!(
        because.iter().any(|words| reason.contains(words)),
        "{}",
        run.stderr
    );
    ensure!(
        log.by_version().contains_key(version),
        "the release never answered: {:?}",
        log.by_version()
    );
    let now = log.between(after, Instant::now());
    assert_eq!(now.by_version().into_keys().collect::<Vec<_>>(), ["v1"]);
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["fit"] == false, "{status}");
    ensure!(
        status["last_deployment"]["phase"] == "rolled_back",
        "{status}"
    );
    Ok((stack, run, log))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_starts_to_fail_is_rolled_back_and_no_client_notices() -> Result {
    let (_stack, _, log) =
        rolled_back("fails-later", &["at most 5.0 % allowed", "answered 500"]).await?;
    assert_none_failed(&log);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_exits_is_rolled_back_and_no_client_notices() -> Result {
    let (_stack, _, log) = rolled_back("exits-later", &["exit status: 3"]).await?;
    assert_none_failed(&log);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_hangs_is_rolled_back() -> Result {
    rolled_back("hangs-later", &["health check failed"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_healthy_and_predicts_nothing_is_rolled_back() -> Result {
    rolled_back("stops-predicting", &["test request failed"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_covers_for_an_active_color_that_is_killed() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.expect(0, &["deploy", "v2"]).await?;
    let traffic = stack.traffic(CONNECTIONS, PAUSE)?;
    traffic.reach(1_000).await?;
    stack.signal("green", "KILL")?;
    traffic.reach(traffic.count() + 2_000).await?;
    let log = traffic.stop().await;
    assert_none_failed(&log);
    assert!(log.by_version()["v1"] > 1_000, "{:?}", log.by_version());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deployed_while_the_active_color_is_down() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.signal("blue", "KILL")?;
    let run = stack.expect(10, &["deploy", "v2"]).await?;
    ensure!(
        run.stderr.contains("the active color blue is not healthy"),
        "{}",
        run.stderr
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_deployers_do_not_meet() -> Result {
    let stack = Stack::of_processes("model-server", LONG)?;
    stack.expect(0, &["up"]).await?;
    let first = stack.start_deployer(&["deploy", "v2", "--watch", "3s"])?;
    let at_work = async {
        while stack.status().await?["last_deployment"].is_null() {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(10), at_work).await??;
    let second = stack.expect(75, &["rollback"]).await?;
    ensure!(
        second.stderr.contains("`deploy v2` by"),
        "{}",
        second.stderr
    );
    let first = Stack::finish(first, &["deploy", "v2"]).await?;
    ensure!(first.code == 0, "{first:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_that_was_killed_after_the_switch_is_cleared_up_after() -> Result {
    let stack = Stack::of_processes("model-server", LONG)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, PAUSE)?;
    let mut deployer = stack.start_deployer(&["deploy", "v2"])?;
    let switched = async {
        while stack.status().await?["last_deployment"]["phase"] != "switched" {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), switched).await??;
    deployer.kill().await?;
    let run = stack.expect(0, &["deploy", "v2", "--watch", "2s"]).await?;
    let log = traffic.stop().await;
    ensure!(
        run.stderr
            .contains("was interrupted; it was last seen switched"),
        "{}",
        run.stderr
    );
    ensure!(
        run.stderr
            .contains("rolled back: the deployer was interrupted"),
        "{}",
        run.stderr
    );
    assert_none_failed(&log);
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_something_else_runs_are_proven_and_switched_all_the_same() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, PAUSE)?;
    let run = stack
        .expect(0, &["deploy", "v2", "--fleet", "static"])
        .await?;
    stack.expect(0, &["rollback", "--fleet", "static"]).await?;
    let log = traffic.stop().await;
    assert_none_failed(&log);
    ensure!(
        run.stdout.contains("promoted: v2 on green"),
        "{}",
        run.stdout
    );
    ensure!(
        log.by_version().contains_key("v2"),
        "{:?}",
        log.by_version()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_gets_wrong_is_named_before_anything_is_touched() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let run = stack.expect(2, &["deploy", "v9"]).await?;
    ensure!(run.stderr.contains("no version \"v9\""), "{}", run.stderr);
    let run = stack
        .expect(2, &["deploy", "v2", "--smoke-requests", "0"])
        .await?;
    ensure!(
        run.stderr
            .contains("smoke.requests is 0, but must be at least 1"),
        "{}",
        run.stderr
    );
    let run = stack.expect(10, &["rollback"]).await?;
    ensure!(
        run.stderr
            .contains("green holds no release that was promoted"),
        "{}",
        run.stderr
    );
    std::fs::write(stack.path("deployer.toml"), "[watch]\nduratoin = \"1s\"\n")?;
    let run = stack.expect(2, &["status"]).await?;
    ensure!(
        run.stderr.contains("line 2: unknown key `watch.duratoin`"),
        "{}",
        run.stderr
    );
    // The stack is taken down with its own settings.
    std::fs::remove_file(stack.path("deployer.toml"))?;
    Ok(())
}
