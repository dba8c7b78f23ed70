//! Preconditions of commands, several deployers at once, and the output with `--json`.

use std::{
    collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack};
use serde_json::Value;

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Deploys on a stack with a problem. Fails unless the deployer names the problem, and changes nothing.
async fn ensure_refused(stack: &Stack, arguments: &[&str], code: i32, reason: &str) -> Result {
    let run = stack
        .expect_exit(code, &[&["deploy", "v2"], arguments].concat())
        .await?;
    ensure!(run.stderr.contains(reason), "{}", run.stderr);
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["healthy"] == true, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_problems_are_named_before_any_change() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, Duration::from_millis(20))?;

    let full = ["--set", "min_free_megabytes=1000000000000"];
    ensure_refused(&stack, &full, 10, "MB left").await?;

    // Not even root can create a directory in /proc.
    let read_only = ["--state", "/proc/deployer"];
    ensure_refused(&stack, &read_only, 2, "cannot create /proc/deployer").await?;

    fs::create_dir(stack.path("elsewhere"))?;
    let flags = ["--set", "router.flags=elsewhere"];
    ensure_refused(&stack, &flags, 10, "the router does not see the flags").await?;

    let another = Stack::with_processes("model-server", SHORT_BAKE)?;
    another.expect_exit(0, &["up"]).await?;
    let url = format!("router.url=http://{}", another.router_address());
    ensure_refused(
        &stack,
        &["--set", &url],
        10,
        "is router.url another router?",
    )
    .await?;
    let control = format!(
        "router.control=http://127.0.0.1:{}",
        another.ports().control()
    );
    ensure_refused(
        &stack,
        &["--set", &control],
        10,
        "the router does not see the flags",
    )
    .await?;
    let unreachable = ["--set", "router.control=http://127.0.0.1:1"];
    ensure_refused(&stack, &unreachable, 10, "Connection refused").await?;

    // The first write of the journal fails as on a full disk.
    symlink("/dev/full", stack.path("state/journal.json.new"))?;
    ensure_refused(&stack, &[], 10, "No space left on device").await?;
    fs::remove_file(stack.path("state/journal.json.new"))?;

    traffic.stop().await.ensure_none_failed()?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_names_missing_nginx() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let nginx = ["--set", "fleet.process.nginx=no-such-nginx"];
    let run = stack
        .expect_exit(1, &[&["up"], &nginx[..]].concat())
        .await?;
    ensure!(run.stderr.contains("no-such-nginx"), "{}", run.stderr);
    Ok(())
}

/// A file system mounted at a directory. It is unmounted when this is dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount_tmpfs(directory: &Path, size: &str) -> Result<Self> {
        let disk = Self(directory.to_owned());
        disk.mount(&[
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size},mode=0755"),
            "tmpfs",
        ])?;
        Ok(disk)
    }

    fn mount(&self, options: &[&str]) -> Result {
        let status = Command::new("mount").args(options).arg(&self.0).status()?;
        ensure!(
            status.success(),
            "cannot mount at {}: run this test as root, and in a container with CAP_SYS_ADMIN",
            self.0.display()
        );
        Ok(())
    }

    /// Fills the disk with one file. Returns its path; removing it frees the disk.
    fn fill(&self) -> Result<std::path::PathBuf> {
        let path = self.0.join("ballast");
        let error = fs::write(&path, vec![0; 64 << 20]).err();
        let error = error.context("the disk is not full after 64 MiB")?;
        ensure!(error.kind() == std::io::ErrorKind::StorageFull, "{error}");
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_during_deployment_keeps_the_proven_release() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    fs::create_dir_all(stack.path("state"))?;
    let disk = Disk::mount_tmpfs(&stack.path("state"), "4m")?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(8, Duration::from_millis(20))?;
    let no_minimum = ["--set", "min_free_megabytes=0"];
    let arguments = [&["deploy", "v2", "--bake", "4s"], &no_minimum[..]].concat();
    let deployer = stack.start_deployer(&arguments)?;
    stack.wait_for_phase("switched").await?;
    let ballast = disk.fill()?;
    let run = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(run.code == 1, "{run:?}");
    ensure!(run.stdout.contains("could not be recorded"), "{run:?}");
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][1]["fit"] == true, "{status}");

    // A rollback needs no disk space.
    stack.expect_exit(0, &["rollback"]).await?;
    ensure!(stack.status().await?["active"] == "blue");
    fs::remove_file(ballast)?;
    stack.expect_exit(0, &["recover"]).await?;
    ensure!(stack.status().await?["active"] == "blue");
    traffic.stop().await.ensure_none_failed()?;
    drop(stack);
    drop(disk);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_state_directory_is_named_before_any_change() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    fs::create_dir_all(stack.path("state"))?;
    stack.expect_exit(0, &["up"]).await?;
    // Mount the state directory a second time, read-only.
    fs::create_dir(stack.path("read-only"))?;
    let disk = Disk(stack.path("read-only"));
    let state = stack.path("state").display().to_string();
    disk.mount(&["--bind", &state])?;
    disk.mount(&["-o", "remount,bind,ro"])?;
    ensure_refused(
        &stack,
        &["--state", "read-only"],
        2,
        "Read-only file system",
    )
    .await?;
    drop(disk);
    drop(stack);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deploy_is_refused_without_a_router() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let run = stack.expect_exit(10, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains("Connection refused"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn second_deployer_names_the_lock_holder() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let arguments = ["deploy", "v2", "--bake", "2s"];
    let both = [
        stack.start_deployer(&arguments)?,
        stack.start_deployer(&arguments)?,
    ];
    let pids = both.each_ref().map(|child| child.id().unwrap_or_default());
    let [first, second] = both.map(|child| Stack::wait_for_exit(child, &arguments));
    let (first, second) = tokio::join!(first, second);
    let (first, second) = (first?, second?);
    let (winner, loser, pid) = if first.code == 0 {
        (first, second, pids[0])
    } else {
        (second, first, pids[1])
    };
    ensure!((winner.code, loser.code) == (0, 75), "{winner:?} {loser:?}");
    let output = Command::new("uname").arg("-n").output()?;
    let host = format!("@{}", String::from_utf8(output.stdout)?.trim());
    for words in [
        "`deploy v2` by",
        &host,
        &format!("process {pid}"),
        "since 20",
    ] {
        ensure!(loser.stderr.contains(words), "{words}: {}", loser.stderr);
    }
    Ok(())
}

/// Returns every file below a directory with its content.
///
/// Log files are left out, because running servers write to them.
fn read_all_files(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.display().to_string();
            if path.extension().is_some_and(|kind| kind == "log") {
                continue;
            }
            // Models are links to the shipped models, which need not be compared.
            if path.is_dir() && !path.is_symlink() {
                files.insert(name, Vec::new());
                pending.push(path);
            } else {
                files.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_prints_the_plan_and_changes_nothing() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let before = read_all_files(&stack.path("."))?;
    let hook = ["--set", "hooks.before.switched=[\"approve-deployment\"]"];
    let run = stack
        .expect_exit(0, &[&["deploy", "v2", "--dry-run"], &hook[..]].concat())
        .await?;
    for words in [
        "ask whether blue is healthy: it is now",
        "start sentiment v2 on green",
        "gate smoke: 50 test requests",
        "move all traffic from blue to green",
        "run approve-deployment before the phase switched",
    ] {
        ensure!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
    ensure!(
        read_all_files(&stack.path("."))? == before,
        "a file changed"
    );
    stack.signal_service("blue", "KILL")?;
    stack.wait_until_exited("blue").await?;
    let run = stack
        .expect_exit(10, &["deploy", "v2", "--dry-run"])
        .await?;
    ensure!(run.stderr.contains("blue is not healthy"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn active_down_deploys_while_active_color_is_down() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("blue", "KILL")?;
    stack.wait_until_exited("blue").await?;
    let run = stack.expect_exit(10, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains("--active-down"), "{}", run.stderr);
    ensure!(stack.status().await?["active"] == "blue");
    let gates = [
        "--set",
        "gates.run=[\"identity\", \"smoke\", \"agreement\"]",
    ];
    let run = stack
        .expect_exit(
            0,
            &[&["deploy", "v2", "--active-down"], &gates[..]].concat(),
        )
        .await?;
    ensure!(
        run.stderr
            .contains("agreement    skipped: the active color is down"),
        "{}",
        run.stderr
    );
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn active_down_never_replaces_a_serving_standby() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    let traffic = stack.start_traffic(8, Duration::from_millis(20))?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    let run = stack
        .expect_exit(10, &["deploy", "v2", "--active-down"])
        .await?;
    ensure!(
        run.stderr.contains("`deployer switch blue` first"),
        "{}",
        run.stderr
    );
    stack.expect_exit(0, &["switch", "blue"]).await?;
    // nginx skips green for a while after green failed as the active color.
    traffic.wait_for_requests(traffic.count() + 1_200).await?;
    // nginx's first attempt after that may fail. Within a bake of one second it would exceed the error limit.
    let deploy = ["deploy", "v2", "--set", "bake.max_error_rate=0.99"];
    stack.expect_exit(0, &deploy).await?;
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_prints_one_object_per_line() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let run = stack.expect_exit(0, &["deploy", "v2", "--json"]).await?;
    ensure!(run.stderr.is_empty(), "{}", run.stderr);
    let lines: Vec<Value> = run
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    let events: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    ensure!(events.len() == lines.len(), "{events:?}");
    for event in ["planned", "gate_finished", "traffic_moved", "phase_reached"] {
        ensure!(events.contains(&event), "{event}: {events:?}");
    }
    let last = &lines[lines.len() - 1];
    ensure!(last["event"] == "ended" && last["exit_code"] == 0, "{last}");
    ensure!(last["phase"] == "promoted", "{last}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn json_ends_with_the_exit_code() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    for (code, command) in [
        (0, "up"),
        (0, "deploy v2 --dry-run"),
        (0, "deploy v2"),
        (0, "status"),
        (0, "history"),
        (0, "report"),
        (2, "validate v7"),
        (0, "up"),
        (0, "recover"),
        (0, "doctor --set bake.duration=1m"),
        (0, "switch blue"),
        (0, "switch green"),
        (10, "deploy no-such-version --set release.model_root="),
        (10, "rollback --set router.control=http://127.0.0.1:1"),
        (2, "alert-test"),
        (0, "completions bash"),
        (0, "man"),
        (2, "deploy --no-such-flag"),
        (2, "no-such-command"),
        (2, "status --set no.such=key"),
        (0, "down"),
    ] {
        let arguments: Vec<&str> = command.split(' ').chain(["--json"]).collect();
        let run = stack.run_deployer(&arguments).await?;
        let lines: Vec<Value> = run
            .stdout
            .lines()
            .map(serde_json::from_str)
            .collect::<std::result::Result<_, _>>()
            .with_context(|| format!("{command}: {run:?}"))?;
        let last = lines
            .last()
            .with_context(|| format!("{command}: {run:?}"))?;
        ensure!(last["exit_code"] == run.code, "{command}: {run:?}");
        ensure!(run.code == code, "{command}: {run:?}");
        ensure!(
            lines.iter().all(|line| line["event"].is_string()),
            "{command}: {run:?}"
        );
    }
    Ok(())
}
