//! The commands that the fleet `compose` gives to a fake Docker. Processes serve.

use std::{
    env,
    ffi::OsString,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::Stack;
use tokio::process::Child;

use crate::{Result, SHORT_BAKE};

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
*"config --format json") echo '{{"services":{{}}}}' ;;
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
    let arguments = [&arguments[..], &["--set", "health.stall=600ms"]].concat();
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
