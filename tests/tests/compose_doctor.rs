//! `deployer doctor` on real faults of Docker and of containers.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{Bake, Stack};

const SHORT: Bake = Bake(Duration::from_secs(1));
/// Time limits that agree although the tests' bake is short.
const CONSISTENT: [&str; 3] = ["doctor", "--set", "bake.duration=1m"];

type Result<T = ()> = anyhow::Result<T>;

/// The doctor's output with more environment variables.
async fn doctor_in(stack: &Stack, environment: &[(&str, &OsStr)]) -> Result<String> {
    let doctor = stack.start_deployer_with(&CONSISTENT, environment)?;
    Ok(Stack::finish(doctor, &CONSISTENT).await?.stdout)
}

/// Fails unless the doctor's output contains these words.
async fn says(stack: &Stack, more: &[&str], words: &[&str]) -> Result {
    let said = stack.deployer(&[&CONSISTENT[..], more].concat()).await?;
    all_in(&said.stdout, words)
}

fn all_in(said: &str, words: &[&str]) -> Result {
    for words in words {
        ensure!(said.contains(words), "{words:?} is not in {said}");
    }
    Ok(())
}

/// Waits until the doctor's output contains this.
async fn until_said(stack: &Stack, words: &str) -> Result<String> {
    let mut last = String::new();
    let said = async {
        loop {
            last = stack.deployer(&CONSISTENT).await?.stdout;
            if last.contains(words) {
                return anyhow::Ok(());
            }
        }
    };
    let said = tokio::time::timeout(Duration::from_mins(1), said).await;
    said.with_context(|| format!("{words:?} was not said, but {last}"))??;
    Ok(last)
}

async fn nothing_is_wrong(stack: &Stack) -> Result {
    let run = stack.deployer(&CONSISTENT).await?;
    ensure!(run.code == 0, "{}", run.stdout);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_why_docker_is_unusable() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    nothing_is_wrong(&stack).await?;

    let nowhere = format!("unix://{}", stack.path("no-engine.sock").display());
    let said = doctor_in(&stack, &[("DOCKER_HOST", nowhere.as_ref())]).await?;
    let start = "-> start the engine (`sudo systemctl start docker`)";
    all_in(&said, &["WRONG  docker       no engine", start])?;

    // A plugin in the user's directory precedes the machine's, even if it does not run.
    let plugins = stack.path("docker/cli-plugins");
    fs::create_dir_all(&plugins)?;
    fs::write(plugins.join("docker-compose"), "")?;
    let settings = stack.path("docker");
    let said = doctor_in(&stack, &[("DOCKER_CONFIG", settings.as_os_str())]).await?;
    let install = "-> install the plugin Compose 2.20 or later";
    all_in(
        &said,
        &["ok     docker       engine", "no plugin Compose", install],
    )?;

    let arguments = [&["--fleet", "compose"], &CONSISTENT[..]].concat();
    if let Some(run) = stack.deployer_of_nobody(&arguments, &[]).await? {
        let member = "-> let this user use it: `sudo usermod -aG docker";
        all_in(&run.stdout, &["no engine", "permission denied", member])?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_old_docker() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    let path = env::var("PATH")?;
    // Docker itself, with another version in its output.
    for (question, answer, words) in [
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
            "#!/bin/sh\n[ \"$1 $2\" = '{question}' ] && exec echo {answer}\nPATH='{path}' exec docker \"$@\"\n"
        );
        let directory = stack.path("old");
        fs::create_dir_all(&directory)?;
        fs::write(directory.join("docker"), script)?;
        fs::set_permissions(directory.join("docker"), Permissions::from_mode(0o755))?;
        let first = OsString::from(format!("{}:{path}", directory.display()));
        let said = doctor_in(&stack, &[("PATH", &first)]).await?;
        all_in(
            &said,
            &[words, "-> install Docker Engine", "\none thing is wrong"],
        )?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_exited_paused_or_restarted_container() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.docker(&["compose", "pause", "green"])?;
    let paused = [
        "container green paused",
        "-> `docker compose unpause green` lets it go on",
        "green        it does not run: container paused",
    ];
    says(&stack, &[], &paused).await?;
    stack.docker(&["compose", "unpause", "green"])?;
    stack.docker(&["compose", "stop", "green"])?;
    let ended = [
        "container green exited, exit code 0",
        "`deployer up` starts it",
    ];
    says(&stack, &[], &ended).await?;
    stack.docker(&["compose", "rm", "--force", "green"])?;
    let gone = ["green        it does not run: there is no container"];
    says(&stack, &[], &gone).await?;

    stack.signal("blue", "KILL")?;
    let said = until_said(&stack, "but Docker had to start it again (restarts: 1)").await?;
    all_in(&said, &["-> `docker compose logs blue` says why it ended"])
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_killed_container() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    stack.docker(&["compose", "kill", "green"])?;
    let killed = [
        "container green exited, exit code 137: SIGKILL ended it",
        "it needed more memory than COLOR_MEMORY in .env allows",
    ];
    says(&stack, &[], &killed).await?;
    let variables = stack.path(".env");
    let text = fs::read_to_string(&variables)?;
    fs::write(variables, format!("{text}COLOR_MEMORY=12m\n"))?;
    // It is killed while it starts, again and again.
    let _ = stack.docker(&["compose", "up", "--detach", "--no-deps", "green"]);
    let said = until_said(&stack, "container green restarting").await?;
    // Some engines do not report that memory was the reason.
    all_in(
        &said,
        &["it needed more memory than", "COLOR_MEMORY in .env"],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_exited_monitor_with_log_lines() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.docker(&["compose", "up", "--detach"])?;
    stack.expect(0, &["up"]).await?;
    until_said(&stack, "nothing is wrong").await?;
    stack.docker(&["compose", "stop", "monitor"])?;
    let ended = [
        "container monitor exited, exit code 0; its last log lines: ",
        "monitor stopped",
        "-> `docker compose logs monitor` says why; `docker compose up --detach monitor` starts it",
    ];
    says(&stack, &[], &ended).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_why_router_does_not_start() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    let file = stack.path("compose.override.yaml");
    fs::write(
        &file,
        "services:\n  prepare:\n    command: [sh, -c, \"echo no room for logs >&2; exit 3\"]\n",
    )?;
    stack.expect(1, &["up"]).await?;
    let words = "container prepare exited, exit code 3; its last log lines: no room for logs";
    says(
        &stack,
        &[],
        &[words, "`docker compose logs prepare` says why"],
    )
    .await?;
    fs::remove_file(file)?;

    let port = stack.ports().router();
    let stranger = TcpListener::bind(("127.0.0.1", port))?;
    stack.expect(1, &["up"]).await?;
    let taken = format!("its port is taken: http://127.0.0.1:{port}: ");
    let process = format!("(process {})", std::process::id());
    let words = [
        "container router",
        "Docker could not start it",
        &taken,
        &process,
    ];
    says(&stack, &[], &words).await?;
    drop(stranger);
    stack.expect(0, &["up"]).await?;
    nothing_is_wrong(&stack).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_invalid_nginx_and_compose_files() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    let control = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&control)?;
    fs::write(&control, format!("{text}\nno_such_directive on;\n"))?;
    let words = [
        "WRONG  nginx",
        "unknown directive \"no_such_directive\"",
        "-> correct the files in nginx/",
    ];
    says(&stack, &[], &words).await?;
    // A stopped one was already reported.
    let _ = stack.docker(&["compose", "restart", "router"]);
    let said = until_said(&stack, "router       it does not run: container restarting").await?;
    all_in(
        &said,
        &[
            "; its last log lines: ",
            "unknown directive \"no_such_directive\"",
        ],
    )?;
    fs::write(&control, text)?;

    let variables = stack.path(".env");
    let text = fs::read_to_string(&variables)?;
    fs::write(&variables, format!("{text}COLOR_MEMORY=lots\n"))?;
    let said = stack.deployer(&CONSISTENT).await?.stdout;
    fs::write(&variables, text)?;
    all_in(&said, &["WRONG  compose", "lots", "-> correct "])
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_full_docker_disk_and_short_timeout() -> Result {
    let stack = Stack::of_containers(SHORT)?;
    stack.expect(0, &["up"]).await?;
    let full = ["--set", "min_free_megabytes=1000000000"];
    let words = ["MB free for Docker in ", "`docker system prune` frees"];
    says(&stack, &full, &words).await?;
    let hasty = ["--set", "fleet.compose.timeout=40s"];
    let words = [
        "time limits  blue may take 45s to stop (stop_grace_period in compose.yaml)",
        "may take only 40s (fleet.compose.timeout)",
        "-> raise fleet.compose.timeout",
    ];
    says(&stack, &hasty, &words).await
}
