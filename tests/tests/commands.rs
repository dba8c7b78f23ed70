//! Preconditions of commands, deployers that meet each other, and output for programs.

use std::{
    collections::BTreeMap, fs, os::unix::fs::symlink, path::Path, process::Command, time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{Bake, Stack};
use serde_json::Value;

const SHORT: Bake = Bake(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// Deploys on a stack with a problem: nothing is changed, and the problem is named.
async fn refused(stack: &Stack, more: &[&str], code: i32, because: &str) -> Result {
    let run = stack
        .expect(code, &[&["deploy", "v2"], more].concat())
        .await?;
    ensure!(run.stderr.contains(because), "{}", run.stderr);
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    ensure!(status["colors"][1]["healthy"] == true, "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_problems_are_named_before_any_change() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;

    let full = ["--set", "min_free_megabytes=1000000000000"];
    refused(&stack, &full, 10, "MB left").await?;

    // Linux lets no user create a directory there, not even root.
    let read_only = ["--state", "/proc/deployer"];
    refused(&stack, &read_only, 2, "cannot create /proc/deployer").await?;

    fs::create_dir(stack.path("elsewhere"))?;
    let flags = ["--set", "router.flags=elsewhere"];
    refused(&stack, &flags, 10, "the router does not see the flags").await?;

    let another = Stack::of_processes("model-server", SHORT)?;
    another.expect(0, &["up"]).await?;
    let url = format!("router.url=http://{}", another.router());
    refused(
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
    refused(
        &stack,
        &["--set", &control],
        10,
        "the router does not see the flags",
    )
    .await?;
    let nobody = ["--set", "router.control=http://127.0.0.1:1"];
    refused(&stack, &nobody, 10, "Connection refused").await?;

    // The journal's disk is full at the first entry.
    symlink("/dev/full", stack.path("state/deployment.json.new"))?;
    refused(&stack, &[], 10, "No space left on device").await?;
    fs::remove_file(stack.path("state/deployment.json.new"))?;

    traffic.stop().await.ensure_none_failed()?;
    stack.expect(0, &["deploy", "v2"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn up_names_missing_nginx() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    let nginx = ["--set", "fleet.process.nginx=no-such-nginx"];
    let run = stack.expect(1, &[&["up"], &nginx[..]].concat()).await?;
    ensure!(run.stderr.contains("no-such-nginx"), "{}", run.stderr);
    Ok(())
}

/// A separate disk at a directory, until dropped.
struct Disk(std::path::PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Result<Self> {
        let disk = Self(at.to_owned());
        disk.mounted(&[
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size},mode=0755"),
            "tmpfs",
        ])?;
        Ok(disk)
    }

    fn mounted(&self, options: &[&str]) -> Result {
        let status = Command::new("mount").args(options).arg(&self.0).status()?;
        ensure!(
            status.success(),
            "cannot mount a disk of {}: this test needs to run as root, in a container with CAP_SYS_ADMIN",
            self.0.display()
        );
        Ok(())
    }

    /// Fills the disk until the returned file is removed.
    fn fill(&self) -> Result<std::path::PathBuf> {
        let path = self.0.join("filling");
        let full = fs::write(&path, vec![0; 64 << 20]).err();
        let full = full.context("it took everything")?;
        ensure!(full.kind() == std::io::ErrorKind::StorageFull, "{full}");
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
    let stack = Stack::of_processes("model-server", SHORT)?;
    fs::create_dir_all(stack.path("state"))?;
    let disk = Disk::mount(&stack.path("state"), "4m")?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;
    let little = ["--set", "min_free_megabytes=0"];
    let arguments = [&["deploy", "v2", "--bake", "4s"], &little[..]].concat();
    let deployer = stack.start_deployer(&arguments)?;
    stack.await_phase("switched").await?;
    let filling = disk.fill()?;
    let run = Stack::finish(deployer, &arguments).await?;
    ensure!(run.code == 1, "{run:?}");
    ensure!(run.stdout.contains("could not be written down"), "{run:?}");
    let status = stack.status().await?;
    ensure!(status["active"] == "green", "{status}");
    ensure!(status["colors"][1]["fit"] == true, "{status}");

    // A rollback needs no disk space.
    stack.expect(0, &["rollback"]).await?;
    ensure!(stack.status().await?["active"] == "blue");
    fs::remove_file(filling)?;
    stack.expect(0, &["recover"]).await?;
    ensure!(stack.status().await?["active"] == "blue");
    traffic.stop().await.ensure_none_failed()?;
    drop(stack);
    drop(disk);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn read_only_state_directory_is_named_before_any_change() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    fs::create_dir_all(stack.path("state"))?;
    stack.expect(0, &["up"]).await?;
    // The same directory again, read-only.
    fs::create_dir(stack.path("read-only"))?;
    let disk = Disk(stack.path("read-only"));
    let state = stack.path("state").display().to_string();
    disk.mounted(&["--bind", &state])?;
    disk.mounted(&["-o", "remount,bind,ro"])?;
    refused(
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
    let stack = Stack::of_processes("model-server", SHORT)?;
    let run = stack.expect(10, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains("Connection refused"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn second_deployer_names_the_lock_holder() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let arguments = ["deploy", "v2", "--bake", "2s"];
    let both = [
        stack.start_deployer(&arguments)?,
        stack.start_deployer(&arguments)?,
    ];
    let pids = both.each_ref().map(|child| child.id().unwrap_or_default());
    let [first, second] = both.map(|child| Stack::finish(child, &arguments));
    let (first, second) = tokio::join!(first, second);
    let (first, second) = (first?, second?);
    let (winner, other, pid) = if first.code == 0 {
        (first, second, pids[0])
    } else {
        (second, first, pids[1])
    };
    ensure!((winner.code, other.code) == (0, 75), "{winner:?} {other:?}");
    let host = Command::new("uname").arg("-n").output()?;
    let host = format!("@{}", String::from_utf8(host.stdout)?.trim());
    for words in [
        "`deploy v2` by",
        &host,
        &format!("process {pid}"),
        "since 20",
    ] {
        ensure!(other.stderr.contains(words), "{words}: {}", other.stderr);
    }
    Ok(())
}

/// Every file below a directory with its content, except those that other processes write meanwhile.
fn everything(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.display().to_string();
            if path.extension().is_some_and(|kind| kind == "log") {
                continue;
            }
            // Models are links to the shipped ones.
            if path.is_dir() && !path.is_symlink() {
                files.insert(name, Vec::new());
                left.push(path);
            } else {
                files.insert(name, fs::read(&path).unwrap_or_default());
            }
        }
    }
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_run_prints_the_plan_and_changes_nothing() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let before = everything(&stack.path("."))?;
    let hook = ["--set", "hooks.before.switched=[\"may-we\"]"];
    let run = stack
        .expect(0, &[&["deploy", "v2", "--dry-run"], &hook[..]].concat())
        .await?;
    for words in [
        "ask whether blue is healthy: it is now",
        "start sentiment v2 on green",
        "gate smoke: 50 test requests",
        "move all traffic from blue to green",
        "run may-we before switched",
    ] {
        ensure!(run.stdout.contains(words), "{words}: {}", run.stdout);
    }
    ensure!(
        everything(&stack.path("."))? == before,
        "it changed something"
    );
    stack.signal("blue", "KILL")?;
    stack.until_ended("blue").await?;
    let run = stack.expect(10, &["deploy", "v2", "--dry-run"]).await?;
    ensure!(run.stderr.contains("blue is not healthy"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn active_down_deploys_while_active_color_is_down() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.signal("blue", "KILL")?;
    stack.until_ended("blue").await?;
    let run = stack.expect(10, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains("--active-down"), "{}", run.stderr);
    ensure!(stack.status().await?["active"] == "blue");
    let gates = [
        "--set",
        "gates.run=[\"identity\", \"smoke\", \"agreement\"]",
    ];
    let run = stack
        .expect(
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
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.expect(0, &["deploy", "v2"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;
    stack.signal("green", "KILL")?;
    stack.until_ended("green").await?;
    let run = stack.expect(10, &["deploy", "v2", "--active-down"]).await?;
    ensure!(
        run.stderr.contains("`deployer switch blue` first"),
        "{}",
        run.stderr
    );
    stack.expect(0, &["switch", "blue"]).await?;
    // nginx passes green over for a while after it failed as the active color.
    traffic.reach(traffic.count() + 1_200).await?;
    // The first attempt afterwards must not count against green within a bake of one second.
    let deploy = ["deploy", "v2", "--set", "bake.max_error_rate=0.99"];
    stack.expect(0, &deploy).await?;
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn json_prints_one_object_per_line() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let run = stack.expect(0, &["deploy", "v2", "--json"]).await?;
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
    let stack = Stack::of_processes("model-server", SHORT)?;
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
        let run = stack.deployer(&arguments).await?;
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
