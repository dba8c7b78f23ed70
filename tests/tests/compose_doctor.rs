//! `deployer doctor` on real problems of Docker and of containers.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack};

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));
/// The command, with a bake long enough that no time limits contradict each other.
const DOCTOR: [&str; 3] = ["doctor", "--set", "bake.duration=1m"];

type Result<T = ()> = anyhow::Result<T>;

/// Returns the doctor's output with additional environment variables.
async fn run_doctor_with(stack: &Stack, environment: &[(&str, &OsStr)]) -> Result<String> {
    let doctor = stack.start_deployer_with(&DOCTOR, environment)?;
    Ok(Stack::wait_for_exit(doctor, &DOCTOR).await?.stdout)
}

/// Fails unless the doctor's output contains each of these texts.
async fn ensure_doctor_prints(stack: &Stack, arguments: &[&str], expected: &[&str]) -> Result {
    let run = stack
        .run_deployer(&[&DOCTOR[..], arguments].concat())
        .await?;
    ensure_contains_all(&run.stdout, expected)
}

fn ensure_contains_all(output: &str, expected: &[&str]) -> Result {
    for text in expected {
        ensure!(output.contains(text), "{text:?} is not in {output}");
    }
    Ok(())
}

/// Waits until the doctor's output contains `expected`. Returns that output; fails after a minute.
async fn wait_until_doctor_prints(stack: &Stack, expected: &str) -> Result<String> {
    let mut last = String::new();
    let printed = async {
        loop {
            last = stack.run_deployer(&DOCTOR).await?.stdout;
            if last.contains(expected) {
                return anyhow::Ok(());
            }
        }
    };
    let printed = tokio::time::timeout(Duration::from_mins(1), printed).await;
    printed.with_context(|| {
        format!("the doctor did not print {expected:?} within a minute: {last}")
    })??;
    Ok(last)
}

async fn ensure_nothing_is_wrong(stack: &Stack) -> Result {
    let run = stack.run_deployer(&DOCTOR).await?;
    ensure!(run.code == 0, "{}", run.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_why_docker_is_unusable() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    ensure_nothing_is_wrong(&stack).await?;

    let no_engine = format!("unix://{}", stack.path("no-engine.sock").display());
    let output = run_doctor_with(&stack, &[("DOCKER_HOST", no_engine.as_ref())]).await?;
    let start = "-> start the engine (`sudo systemctl start docker`)";
    ensure_contains_all(&output, &["WRONG  docker       no engine", start])?;

    // Docker prefers a plugin in the user's directory, even if it cannot run.
    let plugins = stack.path("docker/cli-plugins");
    fs::create_dir_all(&plugins)?;
    fs::write(plugins.join("docker-compose"), "")?;
    let settings = stack.path("docker");
    let output = run_doctor_with(&stack, &[("DOCKER_CONFIG", settings.as_os_str())]).await?;
    let install = "-> install the plugin Compose 2.20 or later";
    ensure_contains_all(
        &output,
        &["ok     docker       engine", "no plugin Compose", install],
    )?;

    let arguments = [&["--fleet", "compose"], &DOCTOR[..]].concat();
    if let Some(run) = stack.run_unprivileged_deployer(&arguments, &[]).await? {
        let member = "-> let this user use it: `sudo usermod -aG docker";
        ensure_contains_all(&run.stdout, &["no engine", "permission denied", member])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_old_docker() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let path = env::var("PATH")?;
    // A wrapper of the real Docker that prints an older version.
    for (command, version, expected) in [
        (
            "version --format",
            "19.03.15",
            "engine 19.03.15 is too old: 20.10 or later",
        ),
        (
            "compose version",
            "2.6.0",
            "Compose 2.6.0 is too old: 2.20 or later",
        ),
    ] {
        let script = format!(
            "#!/bin/sh\n[ \"$1 $2\" = '{command}' ] && exec echo {version}\nPATH='{path}' exec docker \"$@\"\n"
        );
        let directory = stack.path("old-docker");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("docker"), script)?;
        fs::set_permissions(directory.join("docker"), Permissions::from_mode(0o755))?;
        let search_path = OsString::from(format!("{}:{path}", directory.display()));
        let output = run_doctor_with(&stack, &[("PATH", &search_path)]).await?;
        ensure_contains_all(
            &output,
            &[expected, "-> install Docker Engine", "\none thing is wrong"],
        )?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_exited_paused_or_restarted_container() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.docker(&["compose", "pause", "green"])?;
    let paused = [
        "container green paused",
        "-> `docker compose unpause green` lets it go on",
        "green        it does not run: container paused",
    ];
    ensure_doctor_prints(&stack, &[], &paused).await?;
    stack.docker(&["compose", "unpause", "green"])?;
    stack.docker(&["compose", "stop", "green"])?;
    let ended = [
        "container green exited, exit code 0",
        "`deployer up` starts it",
    ];
    ensure_doctor_prints(&stack, &[], &ended).await?;
    stack.docker(&["compose", "rm", "--force", "green"])?;
    let gone = ["green        it does not run: there is no container"];
    ensure_doctor_prints(&stack, &[], &gone).await?;

    stack.signal_service("blue", "KILL")?;
    let output =
        wait_until_doctor_prints(&stack, "but Docker had to start it again (restarts: 1)").await?;
    ensure_contains_all(
        &output,
        &["-> `docker compose logs blue` says why it ended"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_killed_container() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.docker(&["compose", "kill", "green"])?;
    let killed = [
        "container green exited, exit code 137: SIGKILL ended it",
        "it needed more memory than COLOR_MEMORY in .env allows",
    ];
    ensure_doctor_prints(&stack, &[], &killed).await?;
    let variables = stack.path(".env");
    let text = fs::read_to_string(&variables)?;
    fs::write(variables, format!("{text}COLOR_MEMORY=12m\n"))?;
    // With 12 MB the container is killed at each start, and Docker restarts it.
    let _ = stack.docker(&["compose", "up", "--detach", "--no-deps", "green"]);
    let output = wait_until_doctor_prints(&stack, "container green restarting").await?;
    // The engine does not always report that the memory limit was the reason. Then the doctor only suggests it.
    ensure_contains_all(&output, &["more memory than", "COLOR_MEMORY in .env"])
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_exited_monitor_with_log_lines() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect_exit(0, &["up"]).await?;
    wait_until_doctor_prints(&stack, "nothing is wrong").await?;
    stack.docker(&["compose", "stop", "monitor"])?;
    let ended = [
        "container monitor exited, exit code 0; its last log lines: ",
        "monitor stopped",
        "-> `docker compose logs monitor` says why; `docker compose up --detach monitor` starts it",
    ];
    ensure_doctor_prints(&stack, &[], &ended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_why_router_does_not_start() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    let file = stack.path("compose.override.yaml");
    fs::write(
        &file,
        "services:\n  prepare:\n    command: [sh, -c, \"echo no room for logs >&2; exit 3\"]\n",
    )?;
    stack.expect_exit(1, &["up"]).await?;
    let expected = "container prepare exited, exit code 3; its last log lines: no room for logs";
    ensure_doctor_prints(
        &stack,
        &[],
        &[expected, "`docker compose logs prepare` says why"],
    )
    .await?;
    fs::remove_file(file)?;

    let port = stack.ports().router();
    let other_listener = TcpListener::bind(("127.0.0.1", port))?;
    stack.expect_exit(1, &["up"]).await?;
    let taken = format!("its port is taken: http://127.0.0.1:{port}: ");
    let process = format!("(process {})", std::process::id());
    let expected = [
        "container router",
        "Docker could not start it",
        &taken,
        &process,
    ];
    ensure_doctor_prints(&stack, &[], &expected).await?;
    drop(other_listener);
    stack.expect_exit(0, &["up"]).await?;
    ensure_nothing_is_wrong(&stack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_invalid_nginx_and_compose_files() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let control = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&control)?;
    fs::write(&control, format!("{text}\nno_such_directive on;\n"))?;
    let expected = [
        "WRONG  nginx",
        "unknown directive \"no_such_directive\"",
        "-> correct the files in nginx/",
    ];
    ensure_doctor_prints(&stack, &[], &expected).await?;
    // The restart makes the router read the invalid file.
    let _ = stack.docker(&["compose", "restart", "router"]);
    let output =
        wait_until_doctor_prints(&stack, "router       it does not run: container restarting")
            .await?;
    ensure_contains_all(
        &output,
        &[
            "; its last log lines: ",
            "unknown directive \"no_such_directive\"",
        ],
    )?;
    fs::write(&control, text)?;

    let variables = stack.path(".env");
    let text = fs::read_to_string(&variables)?;
    fs::write(&variables, format!("{text}COLOR_MEMORY=lots\n"))?;
    let output = stack.run_deployer(&DOCTOR).await?.stdout;
    fs::write(&variables, text)?;
    ensure_contains_all(&output, &["WRONG  compose", "lots", "-> correct "])
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_full_docker_disk_and_short_timeout() -> Result {
    let stack = Stack::with_containers(SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let full = ["--set", "min_free_megabytes=1000000000"];
    let expected = ["MB free for Docker in ", "`docker system prune` frees"];
    ensure_doctor_prints(&stack, &full, &expected).await?;
    let short_timeout = ["--set", "fleet.compose.timeout=40s"];
    let expected = [
        "time limits  blue may take 45s to stop (stop_grace_period in compose.yaml)",
        "may take only 40s (fleet.compose.timeout)",
        "-> raise fleet.compose.timeout",
    ];
    ensure_doctor_prints(&stack, &short_timeout, &expected).await
}
