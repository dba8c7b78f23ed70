//! `deployer up` and `deployer down` on installations of which something is broken: exit codes, and what serves.

use std::{
    env,
    ffi::OsString,
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{AlertReceiver, BakeDuration, Stack, post_for_body, repository, send_signal};
use serde_json::json;
use tokio::process::Child;

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Starts a stack on which green is active with v2, and blue is its fit standby with v1.
async fn start_with_standby() -> Result<Stack> {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    // Without clients the bake is inconclusive. On a busy machine a server loads its release for seconds.
    let settings = ["bake.on_inconclusive=promote", "health.tries=100"];
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

#[tokio::test(flavor = "multi_thread")]
async fn up_keeps_a_refused_release_stopped() -> Result {
    let stack = Stack::up("faulty-server", SHORT_BAKE).await?;
    let deploy = ["deploy", "never-healthy", "--set", "health.tries=2"];
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

/// A program `docker` in a directory of its own, which notes each command.
struct FakeDocker {
    /// `PATH` with that directory first.
    path: OsString,
    /// The file of the notes.
    commands: PathBuf,
}

/// Every service runs.
const RUNNING: &str = r#"{"State":"running"}"#;
/// No service runs.
const EXITED: &str = r#"{"State":"exited","ExitCode":0}"#;

/// Puts a program `docker` in place. It says that all services have this state, and runs `start` as a shell command for
/// `docker compose up`.
fn fake_docker(stack: &Stack, state: &str, start: &str) -> Result<FakeDocker> {
    let (directory, commands) = (stack.path("docker-bin"), stack.path("docker-commands"));
    fs::create_dir(&directory)?;
    let program = directory.join("docker");
    let script = format!(
        r#"#!/bin/sh
echo "$*" >> {commands}
case "$*" in
*"config --services") printf 'blue\ngreen\nrouter\nmonitor\n' ;;
*"ps --all --format json"*) echo '{state}' ;;
*"ps --all --quiet"*) echo container ;;
*--dry-run*) echo ' DRY-RUN MODE -  Container router-1  Recreate' >&2 ;;
"inspect"*) echo '{{"State":{{"Status":"running","ExitCode":0,"OOMKilled":false,"Error":""}},"RestartCount":0,"Config":{{"Image":"nginx"}}}}' ;;
*" up "*) {start} ;;
esac
"#,
        commands = commands.display()
    );
    fs::write(&program, script)?;
    fs::set_permissions(&program, Permissions::from_mode(0o755))?;
    let path = env::join_paths([directory, "/usr/bin".into(), "/bin".into()])?;
    Ok(FakeDocker { path, commands })
}

impl FakeDocker {
    /// Starts the deployer with the fleet `compose`.
    fn start(&self, stack: &Stack, arguments: &[&str]) -> Result<Child> {
        let arguments = [&["--fleet", "compose"], arguments].concat();
        stack.start_deployer_with(&arguments, &[("PATH", &self.path)])
    }

    /// The commands so far.
    fn noted(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.commands)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn up_of_containers_never_recreates_a_serving_router() -> Result {
    // Processes serve; only the commands to Docker are of interest.
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let docker = fake_docker(&stack, RUNNING, "exit 1")?;
    let run = async |command: &'static str| {
        Stack::wait_for_exit(docker.start(&stack, &[command])?, &[command]).await
    };
    let up = run("up").await?;
    ensure!(up.code == 0, "{up:?}");
    let expected = "the router serves, and is not started again: compose.yaml, .env, or the image";
    ensure!(up.stderr.contains(expected), "{up:?}");
    let noted = docker.noted()?;
    let creating = |line: &&str| line.contains(" up ") && !line.contains("--dry-run");
    ensure!(noted.lines().find(creating).is_none(), "{noted}");
    ensure!(
        noted.lines().any(|line| line == "start container"),
        "{noted}"
    );

    // `down` names what the fake Docker did not stop.
    let down = run("down").await?;
    ensure!(
        down.code == 1 && down.stderr.contains("still listens"),
        "{down:?}"
    );
    let noted = docker.noted()?;
    // One command stops both colors, so that they stop at the same time.
    for service in ["monitor", "router", "blue green"] {
        let stop = format!(" stop {service}");
        ensure!(
            noted.lines().any(|line| line.ends_with(&stop)),
            "{stop}: {noted}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_up_ends_after_the_compose_command_that_it_began() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let go = stack.path("go");
    let start = format!(
        "while [ ! -e {go} ]; do sleep 0.05; done; echo up ended >> {commands}",
        go = go.display(),
        commands = stack.path("docker-commands").display()
    );
    let docker = fake_docker(&stack, EXITED, &start)?;
    let deployer = docker.start(&stack, &["up"])?;
    let began = async {
        while !docker
            .noted()
            .is_ok_and(|noted| noted.contains(" up --detach"))
        {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), began).await?;
    Stack::signal_deployer(&deployer, "INT")?;
    fs::write(&go, "")?;
    let run = Stack::wait_for_exit(deployer, &["up"]).await?;
    ensure!(run.code == 1, "{run:?}");
    ensure!(run.stderr.contains("stop signal received"), "{run:?}");
    let noted = docker.noted()?;
    ensure!(noted.trim_end().ends_with("up ended"), "{noted}");
    Ok(())
}

/// A hook that refuses the candidate after all gates.
const REFUSING: [&str; 2] = ["--set", r#"hooks.before.switched=["false"]"#];

#[tokio::test(flavor = "multi_thread")]
async fn idle_color_gets_its_release_back_under_one_version_only_with_equal_files() -> Result {
    // v2 is active on green, and v1 on blue can stand in.
    let stack = start_with_standby().await?;
    let deploy = [
        &["deploy", "v1", "--set", "health.tries=100"],
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

#[tokio::test(flavor = "multi_thread")]
async fn compose_gives_the_idle_color_its_image_back() -> Result {
    // Processes serve; only the commands to Docker are of interest.
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let status = stack.status().await?;
    let version = status["colors"][1]["model_version"].as_str();
    let version = version.context("no version")?;
    fs::write(
        stack.path(".env"),
        format!("GREEN_VERSION={version}\nGREEN_IMAGE=registry/model-server:old\n"),
    )?;
    let commands = stack.path("docker-commands");
    let start = format!(
        r#"echo "image $GREEN_IMAGE of $GREEN_VERSION" >> {}"#,
        commands.display()
    );
    let docker = fake_docker(&stack, RUNNING, &start)?;
    let arguments = ["deploy", "v3", "--image", "registry/model-server:new"];
    // Green still serves its release, so the gate `identity` refuses it.
    let arguments = [&arguments[..], &["--set", "health.tries=2"]].concat();
    let run = Stack::wait_for_exit(docker.start(&stack, &arguments)?, &arguments).await?;
    ensure!(run.code == 10, "{run:?}");
    let noted = docker.noted()?;
    let images: Vec<&str> = noted
        .lines()
        .filter(|line| line.starts_with("image registry/"))
        .collect();
    let expected = [
        "image registry/model-server:new of v3".to_owned(),
        format!("image registry/model-server:old of {version}"),
    ];
    ensure!(images == expected, "{noted}\n{run:?}");
    Ok(())
}
