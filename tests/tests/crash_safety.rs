//! Deployers that are killed, meet each other, or meet a machine that is not in order.

use std::{os::unix::fs::symlink, time::Duration};

use anyhow::ensure;
use end_to_end::{Stack, Torture, Watch};

const SHORT: Watch = Watch(Duration::from_secs(1));

type Result<T = ()> = anyhow::Result<T>;

/// What keeps a candidate from being promoted once it has the traffic.
const TAKEN_BACK: [&str; 2] = ["--set", "hooks.before.promoted=[\"false\"]"];

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_killed_at_any_step_leaves_traffic_on_one_healthy_color() -> Result {
    let mut torture = Torture::begin().await?;
    let points = torture.points(0, &[]).await?;
    ensure!(points.len() >= 20, "{points:?}");
    for point in &points {
        torture.kill_at(point, &[]).await?;
    }
    let (found, log) = torture.end().await;
    ensure!(found.len() >= 6, "{found:?}");
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_killed_while_it_gives_traffic_back_leaves_it_on_one_healthy_color() -> Result {
    let mut torture = Torture::begin().await?;
    let good = torture.points(0, &[]).await?;
    let mut points = torture.points(20, &TAKEN_BACK).await?;
    points.retain(|point| !good.contains(point));
    ensure!(
        points.contains(&"after journal rolled back".to_owned()),
        "{points:?}"
    );
    for point in &points {
        torture.kill_at(point, &TAKEN_BACK).await?;
    }
    let (_, log) = torture.end().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_killed_at_forty_random_moments_leaves_traffic_on_one_healthy_color() -> Result {
    const KILLS: usize = 40;

    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let mut torture = Torture::begin().await?;
    let whole = torture.whole_deployment().await?;
    for _ in 0..KILLS {
        let killed = torture.kill_after(whole.mul_f64(random.f64())).await;
        killed.map_err(|error| error.context(format!("seed {seed}")))?;
    }
    let (_, log) = torture.end().await;
    log.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn recover_goes_on_watching_where_that_is_wanted() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;
    let mut deployer = stack.start_deployer(&["deploy", "v2", "--watch", "60s"])?;
    stack.await_phase("switched").await?;
    deployer.kill().await?;
    let run = stack
        .expect(
            0,
            &["recover", "--on-interrupt", "continue", "--watch", "2s"],
        )
        .await?;
    ensure!(run.stdout.contains("promoted: v2 on green"), "{run:?}");
    let again = stack.expect(0, &["recover"]).await?;
    ensure!(again.stdout.contains("nothing to recover"), "{again:?}");
    traffic.stop().await.ensure_none_failed()?;
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roll_back_takes_an_interrupted_deployment_back() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;
    let mut deployer = stack.start_deployer(&["deploy", "v2", "--watch", "60s"])?;
    stack.await_phase("switched").await?;
    deployer.kill().await?;
    let run = stack.expect(0, &["rollback"]).await?;
    ensure!(
        run.stdout.contains("rolled back: blue serves v1"),
        "{run:?}"
    );
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_that_is_told_to_stop_after_the_switch_gives_traffic_back() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;
    for (signal, on_interrupt, code) in [
        ("HUP", "rollback", 20),
        ("INT", "rollback", 20),
        ("TERM", "continue", 0),
    ] {
        let arguments = [
            "deploy",
            "v2",
            "--watch",
            "4s",
            "--on-interrupt",
            on_interrupt,
        ];
        let deployer = stack.start_deployer(&arguments)?;
        stack.await_phase("switched").await?;
        Stack::tell(&deployer, signal)?;
        let run = Stack::finish(deployer, &arguments).await?;
        ensure!(run.code == code, "{signal}: {run:?}");
    }
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployer_under_nohup_outlives_its_terminal() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let deployer = stack.command(&["deploy", "v2", "--watch", "4s"])?;
    let deployer = deployer.as_std();
    let child = tokio::process::Command::new("nohup")
        .arg(deployer.get_program())
        .args(deployer.get_args())
        .envs(
            deployer
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(stack.path("."))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    stack.await_phase("switched").await?;
    Stack::tell(&child, "HUP")?;
    let run = Stack::finish(child, &["deploy", "v2"]).await?;
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}

/// Deploys to an installation that is not in order; nothing is touched, and this is said.
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
async fn what_is_not_in_order_is_said_before_anything_is_touched() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(8, Duration::from_millis(20))?;

    let full = ["--set", "min_free_megabytes=1000000000000"];
    refused(&stack, &full, 10, "MB left").await?;

    // Linux lets nobody make a directory there, not even root.
    let read_only = ["--state", "/proc/deployer"];
    refused(&stack, &read_only, 2, "cannot create /proc/deployer").await?;

    std::fs::create_dir(stack.path("elsewhere"))?;
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

    // The journal's disk is full at the very first entry.
    symlink("/dev/full", stack.path("state/deployment.json.new"))?;
    refused(&stack, &[], 10, "No space left on device").await?;
    std::fs::remove_file(stack.path("state/deployment.json.new"))?;

    traffic.stop().await.ensure_none_failed()?;
    stack.expect(0, &["deploy", "v2"]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_nginx_is_named() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    let nginx = ["--set", "fleet.process.nginx=no-such-nginx"];
    let run = stack.expect(1, &[&["up"], &nginx[..]].concat()).await?;
    ensure!(run.stderr.contains("no-such-nginx"), "{}", run.stderr);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_done_and_changes_nothing() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let run = stack.expect(0, &["deploy", "v2", "--dry-run"]).await?;
    for words in [
        "start sentiment v2 on green",
        "gate smoke: 50 test requests",
        "move all traffic from blue to green",
    ] {
        ensure!(run.stdout.contains(words), "{}", run.stdout);
    }
    let status = stack.status().await?;
    ensure!(status["last_deployment"].is_null(), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fix_is_shipped_although_the_active_color_is_down() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.signal("blue", "KILL")?;
    stack.until_ended("blue").await?;
    let run = stack.expect(10, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains("--active-down"), "{}", run.stderr);
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
async fn programs_get_one_object_a_line() -> Result {
    let stack = Stack::of_processes("model-server", SHORT)?;
    stack.expect(0, &["up"]).await?;
    let run = stack.expect(0, &["deploy", "v2", "--json"]).await?;
    ensure!(run.stderr.is_empty(), "{}", run.stderr);
    let lines: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    let events: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    ensure!(events.len() == lines.len(), "{events:?}");
    for event in ["planned", "judged", "moved", "reached"] {
        ensure!(events.contains(&event), "{event}: {events:?}");
    }
    let last = &lines[lines.len() - 1];
    ensure!(last["event"] == "ended" && last["exit_code"] == 0, "{last}");
    ensure!(last["phase"] == "promoted", "{last}");
    Ok(())
}
