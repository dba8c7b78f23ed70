//! The folders in `examples/`: their files are checked, and `FastAPI` runs.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Clients, Stack, Traffic, program, repository};
use serde_json::{Value, json};

type Result<T = ()> = anyhow::Result<T>;

/// The folders, and whether the profile there needs Compose.
const EXAMPLES: [(&str, bool); 8] = [
    ("fastapi", false),
    ("llama.cpp", true),
    ("ollama", true),
    ("text-embeddings-inference", true),
    ("transformers-serve", true),
    ("triton", true),
    ("vllm-cpu", true),
    ("vllm-gpu", true),
];

fn examples() -> PathBuf {
    repository().join("examples")
}

/// Copies what an installation has, and then the files of an example, as its README says.
fn install(example: &str) -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    let copy = |from: &Path, to: &str| -> Result {
        fs::copy(from, directory.path().join(to))
            .with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    };
    for file in ["compose.yaml", "server.env"] {
        copy(&repository().join(file), file)?;
    }
    fs::create_dir(directory.path().join("nginx"))?;
    for entry in fs::read_dir(repository().join("nginx"))? {
        let entry = entry?;
        let name = entry.file_name();
        copy(&entry.path(), &format!("nginx/{}", name.to_string_lossy()))?;
    }
    for file in ["compose.override.yaml", "deployer.toml", "inputs.jsonl"] {
        copy(&examples().join(example).join(file), file)?;
    }
    Ok(directory)
}

fn run(directory: &Path, program: &Path, arguments: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}

fn has_compose() -> bool {
    let asked = run(Path::new("."), Path::new("docker"), &["compose", "version"]);
    asked.is_ok_and(|(works, _)| works)
}

#[test]
fn every_example_is_listed_and_complete() -> Result {
    let mut folders = Vec::new();
    for entry in fs::read_dir(examples())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    folders.sort();
    ensure!(folders == EXAMPLES.map(|(folder, _)| folder), "{folders:?}");
    let list = fs::read_to_string(examples().join("README.md"))?;
    for folder in folders {
        ensure!(
            list.contains(&format!("[{folder}]({folder})")),
            "README.md lacks {folder}"
        );
        let readme = fs::read_to_string(examples().join(&folder).join("README.md"))?;
        ensure!(
            readme.contains("How does it drain?"),
            "{folder}/README.md does not say how it drains"
        );
        let inputs = fs::read_to_string(examples().join(&folder).join("inputs.jsonl"))?;
        for line in inputs.lines() {
            let line: Value = serde_json::from_str(line).with_context(|| folder.clone())?;
            ensure!(
                line["input"].is_object() && line["expect"].is_string(),
                "{folder}: {line}"
            );
        }
    }
    Ok(())
}

#[test]
fn files_of_examples_are_accepted_by_compose_and_doctor() -> Result {
    if !has_compose() {
        println!("left out, because Docker Compose is missing");
        return Ok(());
    }
    for (example, needs_compose) in EXAMPLES {
        let directory = install(example)?;
        let directory = directory.path();
        let config = ["compose", "config", "--quiet"];
        let (valid, text) = run(directory, Path::new("docker"), &config)?;
        ensure!(valid, "{example}: {text}");
        // The profile of FastAPI is for processes of the checkout; its override is for containers.
        let containers: &[&str] = if needs_compose {
            &[]
        } else {
            &["--fleet", "compose", "--set", "probe.inputs=inputs.jsonl"]
        };
        let doctor = [&["doctor", "--offline"], containers].concat();
        let (fine, text) = run(directory, &program("deployer")?, &doctor)?;
        ensure!(fine, "{example}: {text}");
        ensure!(text.contains("no engine and no server was asked"), "{text}");
        for expected in [
            "compose ",
            "time limits  none contradicts another",
            "test inputs",
        ] {
            ensure!(text.contains(expected), "{example}: {expected}: {text}");
        }
    }
    Ok(())
}

#[test]
fn offline_doctor_names_what_is_wrong_in_compose_files() -> Result {
    if !has_compose() {
        println!("left out, because Docker Compose is missing");
        return Ok(());
    }
    let directory = install("vllm-gpu")?;
    let directory = directory.path();
    let doctor = program("deployer")?;
    let examine = |more: &[&str]| -> Result<String> {
        let (fine, text) = run(
            directory,
            &doctor,
            &[&["doctor", "--offline"], more].concat(),
        )?;
        ensure!(!fine, "{text}");
        Ok(text)
    };
    let text = examine(&["--set", "drain.longest=2m"])?;
    let expected = "an answer may take 2m (drain.longest), but blue is killed after 1m 30s";
    ensure!(text.contains(expected), "{text}");
    let text = examine(&["--set", "blue.url=http://127.0.0.1:9000"])?;
    ensure!(text.contains("blue publishes no port 9000"), "{text}");
    fs::write(
        directory.join("compose.yaml"),
        "services: {blue: {image: a, ports: ['8081:8081']}, green: {image: 'a:${GREEN_VERSION}', ports: ['8082:8082']}}",
    )?;
    fs::remove_file(directory.join("compose.override.yaml"))?;
    let text = examine(&[])?;
    ensure!(
        text.contains("compose.yaml has no service router"),
        "{text}"
    );
    ensure!(text.contains("blue does not use BLUE_VERSION"), "{text}");
    ensure!(!text.contains("green does not use"), "{text}");
    fs::write(directory.join("compose.yaml"), "services: [")?;
    ensure!(
        examine(&[])?.contains("WRONG  compose"),
        "the file is invalid"
    );
    Ok(())
}

/// The example `fastapi`, with its own profile, and shorter gates. `releases` is the directory of its releases.
fn fastapi(releases: &Path) -> Result<Stack> {
    let python = repository().join("target/tools-servers/bin/python");
    ensure!(
        python.is_file(),
        "{} is missing: run `scripts/setup test`",
        python.display()
    );
    let example = examples().join("fastapi");
    let profile = fs::read_to_string(example.join("deployer.toml"))?;
    let started = "exec uvicorn --app-dir examples/fastapi";
    ensure!(
        profile.contains(started),
        "the profile starts another command"
    );
    let arguments = "--timeout-keep-alive 75 --timeout-graceful-shutdown 30";
    ensure!(
        profile.contains(arguments),
        "the profile has other arguments"
    );
    let command = format!(
        "MODELS={} exec {} -m uvicorn --app-dir {} --host $HOST --port $PORT {arguments} server:app",
        releases.display(),
        python.display(),
        example.display()
    );
    let stack = Stack::with_command(
        &["sh", "-c", &command],
        BakeDuration(Duration::from_secs(3)),
    )?;
    let (_, probe) = profile
        .split_once("[probe]")
        .context("the profile has no [probe]")?;
    let inputs = example.join("inputs.jsonl");
    let probe = probe.replace("examples/fastapi/inputs.jsonl", &inputs.to_string_lossy());
    stack.replace_settings(&format!(
        "[release]\nmodel = \"reviews\"\nmodel_root = \"\"\n[probe]{probe}{SHORT_GATES}"
    ))?;
    Ok(stack)
}

/// Settings with which no verdict depends on the speed of this machine, except those of the gate `health`.
const SHORT_GATES: &str = r#"
[health]
interval = "500ms"

[load]
concurrency = 4
duration = "1s"
max_p99 = "10s"

[comparison]
negligible = "1m"
duration = "1s"

[bake]
duration = "3s"
interval = "200ms"
negligible = "1m"
"#;

fn start_traffic(stack: &Stack) -> Traffic {
    let bodies =
        (0..20).map(|number| json!({"text": format!("Film {number} is good.")}).to_string());
    let clients = Clients::predicting(bodies.collect());
    Traffic::start_clients(
        stack.router_address(),
        4,
        Duration::from_millis(20),
        clients,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_is_promoted_and_worse_releases_are_refused() -> Result {
    let stack = fastapi(&examples().join("fastapi/models"))?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = start_traffic(&stack);
    traffic.wait_for_requests(100).await?;
    let run = stack.expect_exit(0, &["deploy", "v2"]).await?;
    ensure!(
        run.stderr.contains("warm         pass: level after "),
        "{run:?}"
    );
    let run = stack.expect_exit(10, &["deploy", "worse"]).await?;
    ensure!(run.stderr.contains("golden"), "{run:?}");
    let run = stack.expect_exit(10, &["deploy", "missing"]).await?;
    ensure!(run.stderr.contains("it stopped while starting"), "{run:?}");
    ensure!(
        run.stderr.contains("cannot load release missing"),
        "{run:?}"
    );
    traffic.wait_for_requests(traffic.count() + 100).await?;
    traffic.stop().await.ensure_none_failed()?;
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

/// A release whose words arrive slowly, through a named pipe.
struct SlowRelease {
    releases: tempfile::TempDir,
}

impl SlowRelease {
    const WORDS: usize = 200;

    /// Creates the release `slow` beside the others.
    fn new() -> Result<Self> {
        let releases = tempfile::tempdir()?;
        for version in ["v1", "v2"] {
            let directory = releases.path().join(version);
            fs::create_dir(&directory)?;
            let words = examples()
                .join("fastapi/models")
                .join(version)
                .join("words.jsonl");
            fs::copy(words, directory.join("words.jsonl"))?;
        }
        let directory = releases.path().join("slow");
        fs::create_dir(&directory)?;
        let pipe = directory.join("words.jsonl");
        let (made, text) = run(
            Path::new("."),
            Path::new("mkfifo"),
            &[&pipe.to_string_lossy()],
        )?;
        ensure!(made, "{text}");
        Ok(Self { releases })
    }

    /// Writes the words of v2, and then others until there are [`Self::WORDS`], within this time. Stops after `last` words, if
    /// that is given, and keeps the pipe open then. The thread returns when it wrote the last one, and that pipe.
    fn write(
        &self,
        within: Duration,
        last: Option<usize>,
    ) -> thread::JoinHandle<Result<(Instant, Option<File>)>> {
        let pause = within / u32::try_from(Self::WORDS).unwrap_or(u32::MAX);
        let releases = self.releases.path().to_owned();
        thread::spawn(move || {
            let known = fs::read_to_string(releases.join("v2/words.jsonl"))?;
            // Opens when the server reads.
            let mut pipe = fs::OpenOptions::new()
                .write(true)
                .open(releases.join("slow/words.jsonl"))?;
            writeln!(pipe, "{}", json!({"words": Self::WORDS}))?;
            let others = (0..)
                .map(|number| json!({"word": format!("word-{number}"), "weight": 0}).to_string());
            let words = known.lines().skip(1).map(str::to_owned).chain(others);
            for word in words.take(last.unwrap_or(Self::WORDS)) {
                writeln!(pipe, "{word}")?;
                #[expect(clippy::disallowed_methods, reason = "it is how long the server loads")]
                thread::sleep(pause);
            }
            Ok((Instant::now(), last.map(|_| pipe)))
        })
    }
}

/// Deploys a release that loads for this long, with traffic. It must be promoted.
async fn ensure_promoted_after_loading_for(loading: Duration, settings: &[&str]) -> Result {
    let slow = SlowRelease::new()?;
    let stack = fastapi(slow.releases.path())?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = start_traffic(&stack);
    let writer = slow.write(loading, None);
    let began = Instant::now();
    let run = stack
        .expect_exit(0, &[&["deploy", "slow"], settings].concat())
        .await?;
    ensure!(run.returned - began >= loading, "{run:?}");
    // Where lines cannot be overwritten, the wait is a line each 30 s.
    ensure!(
        run.stderr.contains("; it logged: loaded ") == (loading > Duration::from_secs(40)),
        "{run:?}"
    );
    writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    traffic.stop().await.ensure_none_failed()?;
    ensure!(stack.status().await?["active"] == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_that_loads_longer_than_the_stall_is_promoted() -> Result {
    let stall = ["--set", "health.stall=5s"];
    ensure_promoted_after_loading_for(Duration::from_secs(15), &stall).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_that_stops_loading_is_refused_after_the_stall() -> Result {
    const STALL: Duration = Duration::from_secs(5);
    let slow = SlowRelease::new()?;
    let stack = fastapi(slow.releases.path())?;
    stack.expect_exit(0, &["up"]).await?;
    let writer = slow.write(Duration::from_secs(20), Some(60));
    let deploy = ["deploy", "slow", "--set", "health.stall=5s", "--json"];
    let run = stack.expect_exit(10, &deploy).await?;
    let (stopped, pipe) = writer
        .join()
        .map_err(|_| anyhow::anyhow!("the writer panicked"))??;
    drop(pipe);
    let lines = run
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let lines: Vec<Value> = lines.collect();
    let verdict = lines
        .iter()
        .find(|line| line["gate"] == "health" && line["verdict"] == "fail");
    let summary = verdict
        .and_then(|line| line["summary"].as_str())
        .context("no verdict")?;
    ensure!(
        summary.contains("no progress for 5s (health.stall)"),
        "{summary}"
    );
    ensure!(summary.contains("loaded 60 of 200 words"), "{summary}");
    // Later ones are about the release that the idle color gets back.
    let until_verdict = lines
        .iter()
        .take_while(|line| line["gate"] != "health" || line["verdict"].is_null());
    let shown = until_verdict
        .filter_map(|line| line["last_line"].as_str())
        .last();
    ensure!(shown == Some("loaded 60 of 200 words"), "{shown:?}");
    // The idle color gets its release back before the command returns, which takes some seconds.
    let took = run.returned - stopped;
    ensure!(took >= STALL, "{took:?}");
    let refused = verdict
        .and_then(|line| line["at"].as_str())
        .context("no time")?;
    println!("refused at {refused}, {took:?} after the last word with the restore");
    ensure!(took < STALL + Duration::from_secs(20), "{took:?}");
    Ok(())
}

mod slow {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn fastapi_that_loads_for_two_minutes_is_promoted() -> Result {
        ensure_promoted_after_loading_for(Duration::from_mins(2), &[]).await
    }
}
