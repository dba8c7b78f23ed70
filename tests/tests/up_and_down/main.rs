//! `deployer up` and `deployer down` on installations of which something is broken: exit codes, and what serves.

mod containers;
mod releases;

use std::{
    fs,
    net::TcpListener,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack, post_for_body, send_signal};

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Starts a stack on which green is active with v2, and blue is its fit standby with v1.
async fn start_with_standby() -> Result<Stack> {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    // Without clients the bake is inconclusive. On a busy machine a server loads its release for seconds.
    let settings = ["bake.on_inconclusive=promote", "health.stall=30s"];
    let settings = settings.iter().flat_map(|setting| ["--set", *setting]);
    let deploy: Vec<&str> = ["deploy", "v2"].into_iter().chain(settings).collect();
    stack.expect_exit(0, &deploy).await?;
    Ok(stack)
}

/// Removes a release, so that no server can load it.
fn remove_release(stack: &Stack, version: &str) -> Result {
    Ok(fs::remove_file(
        stack.path("models/sentiment").join(version),
    )?)
}

/// Returns the version that answers a client's prediction.
async fn serving_version(stack: &Stack) -> Result<String> {
    let router = stack.router_address().to_string();
    let body = post_for_body(&router, "/predict", r#"{"text": "good"}"#).await?;
    let answer: serde_json::Value = serde_json::from_str(&body)?;
    let version = answer["model_version"].as_str();
    Ok(version
        .with_context(|| format!("no version in {body}"))?
        .to_owned())
}

/// Returns the processes of a process group that run. Zombies do not.
fn group_members(group: u32) -> Result<Vec<String>> {
    let mut members = Vec::new();
    for process in fs::read_dir("/proc")? {
        let stat = fs::read_to_string(process?.path().join("stat")).unwrap_or_default();
        let Some((pid, rest)) = stat.split_once(' ') else {
            continue;
        };
        // The name in parentheses may contain anything. State, parent, and process group follow.
        let after_name = rest.rsplit_once(") ").map_or("", |(_, after)| after);
        let fields: Vec<&str> = after_name.split(' ').collect();
        if fields.len() > 2 && fields[0] != "Z" && fields[2] == group.to_string() {
            members.push(pid.to_owned());
        }
    }
    Ok(members)
}

/// Fails unless every port of the stack's services is free.
fn ensure_ports_are_free(stack: &Stack) -> Result {
    let ports = stack.ports();
    for port in [ports.router(), ports.control(), ports.blue(), ports.green()] {
        TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("port {port} is taken"))?;
    }
    Ok(())
}

/// Kills nginx's master process. Its workers go on. Returns the number of their process group.
async fn kill_router_master(stack: &Stack) -> Result<u32> {
    let group = stack.service_pid("router")?;
    stack.signal_service("router", "KILL")?;
    stack.wait_until_exited("router").await?;
    ensure!(!group_members(group)?.is_empty(), "no worker is left");
    Ok(group)
}

#[tokio::test(flavor = "multi_thread")]
async fn up_serves_by_the_standby_when_active_color_is_sick() -> Result {
    let stack = start_with_standby().await?;
    stack.expect_exit(0, &["down"]).await?;
    remove_release(&stack, "v2")?;
    let run = stack.expect_exit(1, &["up"]).await?;
    for expected in [
        "green is active and not healthy",
        "no version \"v2\"",
        "are answered by v1",
    ] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    ensure!(serving_version(&stack).await? == "v1");
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][0]["healthy"] == true, "{status}");
    ensure!(status["colors"][1]["stopped"] == true, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_serves_by_the_standby_when_active_program_is_missing() -> Result {
    let stack = start_with_standby().await?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    stack.signal_service("router", "TERM")?;
    stack.wait_until_exited("router").await?;
    // Blue runs. Green cannot even be started.
    let missing = ["up", "--set", "fleet.process.command=[\"no-such-server\"]"];
    let run = stack.expect_exit(1, &missing).await?;
    for expected in [
        "green is active and not healthy: it does not start: cannot start green (no-such-server)",
        "are answered by v1",
    ] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    ensure!(serving_version(&stack).await? == "v1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_succeeds_when_standby_is_sick() -> Result {
    let stack = start_with_standby().await?;
    stack.expect_exit(0, &["down"]).await?;
    remove_release(&stack, "v1")?;
    let run = stack.expect_exit(0, &["up"]).await?;
    for expected in ["blue cannot stand in: it stopped", "no version \"v1\""] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    ensure!(run.stdout.contains("serves green"), "{run:?}");
    ensure!(serving_version(&stack).await? == "v2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_names_program_on_a_taken_port() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let this = format!("(process {})", std::process::id());
    for port in [stack.ports().router(), stack.ports().control()] {
        let listener = TcpListener::bind(("127.0.0.1", port))?;
        let run = stack.expect_exit(1, &["up"]).await?;
        let taken = format!("http://127.0.0.1:{port} is taken by ");
        for expected in [&taken, &this, "are not answered"] {
            ensure!(
                run.stderr.contains(expected),
                "{expected:?} is not in {run:?}"
            );
        }
        // Both colors wait for the router.
        let status = stack.status().await?;
        for color in 0..2 {
            ensure!(status["colors"][color]["healthy"] == true, "{status}");
        }
        let run = stack.expect_exit(1, &["down"]).await?;
        let listens = format!("still listens at http://127.0.0.1:{port}");
        for expected in [&listens, &this] {
            ensure!(
                run.stderr.contains(expected),
                "{expected:?} is not in {run:?}"
            );
        }
        drop(listener);
    }
    let listener = TcpListener::bind(("127.0.0.1", stack.ports().blue()))?;
    let run = stack
        .expect_exit(1, &["up", "--set", "probe.timeout=500ms"])
        .await?;
    for expected in [
        "blue is active and not healthy: it does not start",
        "is taken by",
        &this,
    ] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    drop(listener);
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["down"]).await?;
    ensure_ports_are_free(&stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn up_replaces_workers_without_a_master() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let group = kill_router_master(&stack).await?;
    ensure!(serving_version(&stack).await? == "v1");
    // What the workers cannot follow must not take them down.
    let path = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}\nno_such_directive on;\n"))?;
    let run = stack.expect_exit(1, &["up"]).await?;
    for expected in ["its workers serve", "no_such_directive", "answered by v1"] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    ensure!(serving_version(&stack).await? == "v1");
    fs::write(&path, text)?;

    let traffic = stack.start_traffic(4, Duration::from_millis(5))?;
    traffic.wait_for_requests(100).await?;
    let run = stack.expect_exit(0, &["up"]).await?;
    ensure!(
        run.stderr.contains("what it started still runs: process "),
        "{run:?}"
    );
    ensure!(
        group_members(group)?.is_empty(),
        "{:?}",
        group_members(group)?
    );
    let returned = run.returned;
    traffic.wait_for_requests(traffic.count() + 100).await?;
    let log = traffic.stop().await;
    // Between the workers and the new nginx, the port is closed for a moment.
    let failed = log.requests.iter().filter(|it| it.outcome.is_err());
    let failed: Vec<Instant> = failed.map(|request| request.started).collect();
    let first_and_last = failed.iter().min().zip(failed.iter().max());
    let closed = first_and_last.map_or(Duration::ZERO, |(first, last)| *last - *first);
    println!("{} requests failed within {closed:?}", failed.len());
    ensure!(closed < Duration::from_secs(2), "{closed:?}");
    log.between(returned, Instant::now()).ensure_none_failed()?;
    let master = stack.service_pid("router")?;
    ensure!(master != group && !group_members(master)?.is_empty());
    stack.expect_exit(0, &["down"]).await?;
    ensure!(group_members(master)?.is_empty());
    ensure_ports_are_free(&stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn down_ends_workers_without_a_master() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let group = kill_router_master(&stack).await?;
    let run = stack.run_deployer(&["doctor"]).await?;
    ensure!(run.stdout.contains("what it started still runs"), "{run:?}");
    stack.expect_exit(0, &["down"]).await?;
    ensure!(
        group_members(group)?.is_empty(),
        "{:?}",
        group_members(group)?
    );
    ensure_ports_are_free(&stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn down_names_router_that_it_does_not_manage() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let group = stack.service_pid("router")?;
    // Another state directory knows nothing of this router.
    let another = ["--state", "elsewhere"];
    let run = stack
        .expect_exit(1, &[&["up"], &another[..]].concat())
        .await?;
    ensure!(
        run.stderr.contains("is taken by nginx (process "),
        "{run:?}"
    );
    let run = stack
        .expect_exit(1, &[&["down"], &another[..]].concat())
        .await?;
    let listens = format!("still listens at http://{}", stack.router_address());
    for expected in ["not everything is down", "nginx (process ", &listens] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    ensure!(!group_members(group)?.is_empty(), "the router was stopped");
    stack.expect_exit(0, &["down"]).await?;
    ensure_ports_are_free(&stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn down_stops_the_monitor() -> Result {
    let stack = start_with_standby().await?;
    let arguments = ["monitor", "--set", "monitor.restart_standby=true"];
    let monitor = stack.start_deployer(&arguments)?;
    let registered = async {
        while !stack.path("state/processes/monitor.json").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), registered).await?;
    stack.expect_exit(0, &["down"]).await?;
    // It has ended before the colors did, and so alerted nobody and started nothing.
    let run = Stack::wait_for_exit(monitor, &arguments).await?;
    ensure!(run.code == 0, "{run:?}");
    ensure!(!run.stderr.contains("is down"), "{run:?}");
    ensure_ports_are_free(&stack)
}

#[tokio::test(flavor = "multi_thread")]
async fn down_of_a_static_fleet_says_that_it_stops_nothing() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let run = stack.expect_exit(0, &["down", "--fleet", "static"]).await?;
    ensure!(run.stdout.contains("stops no other service"), "{run:?}");
    ensure!(serving_version(&stack).await? == "v1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_leaves_serving_router_alone_when_files_changed() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let pid = stack.service_pid("router")?;
    let run = stack.expect_exit(0, &["up"]).await?;
    ensure!(!run.stderr.contains("is not started again"), "{run:?}");

    let path = stack.path("nginx/public.conf");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}# a comment\n"))?;
    let run = stack.expect_exit(0, &["up"]).await?;
    for expected in ["the router serves, and is not started again", "public.conf"] {
        ensure!(
            run.stderr.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    ensure!(stack.service_pid("router")? == pid, "nginx was restarted");

    // New workers have read the files.
    send_signal(&pid.to_string(), "HUP")?;
    let silent = async {
        loop {
            let run = stack.expect_exit(0, &["up"]).await?;
            if !run.stderr.contains("is not started again") {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), silent).await?
}
