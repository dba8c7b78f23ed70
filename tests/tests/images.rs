//! The content of the images `model-server:latest` and `deployer:latest`, which must exist.
//!
//! Tests that compile in Docker, or need images that were compiled there, are ignored by default, because `make
//! test` builds the images from the host's programs (`docker/build --from-host`). After `docker/build`, run
//! all: `cargo nextest run --locked -E 'binary(images)' --run-ignored all`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};
use auditable_info::audit_info_from_slice;
use end_to_end::{PortBlock, get, post, repository};
use serde_json::Value;
use tempfile::TempDir;

type Result<T = ()> = anyhow::Result<T>;

/// Bytes.
const MODEL_SERVER_AT_MOST: u64 = 120_000_000;
const DEPLOYER_AT_MOST: u64 = 40_000_000;
/// Of the list of a program's crates.
const LIST_AT_MOST: usize = 10_000_000;

/// The variable that kills a deployer with debug assertions at a chosen kill point.
const KILL_VARIABLE: &[u8] = b"DEPLOYER_KILL_AT";

fn docker(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("docker").args(arguments).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "docker {arguments:?}: {told}");
    Ok(output.stdout)
}

fn inspected(image: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&docker(&[
        "image",
        "inspect",
        "--format",
        "{{json .}}",
        image,
    ])?)?)
}

/// A container that never runs, removed when dropped.
struct Unpacked(String);

impl Unpacked {
    fn of(image: &str) -> Result<Self> {
        let name = docker(&["create", image])?;
        Ok(Self(String::from_utf8(name)?.trim().to_owned()))
    }

    /// Its files, as `docker export` lists them.
    fn files(&self) -> Result<Vec<String>> {
        let directory = tempfile::tempdir()?;
        let archive = directory.path().join("all.tar");
        let path = archive.to_str().context("a path that is no text")?;
        docker(&["export", "--output", path, &self.0])?;
        let output = Command::new("tar").arg("-tf").arg(&archive).output()?;
        ensure!(output.status.success(), "tar cannot list what was exported");
        let list = String::from_utf8(output.stdout)?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    fn program(&self, path: &str) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("program");
        let from = format!("{}:{path}", self.0);
        docker(&[
            "cp",
            &from,
            copy.to_str().context("a path that is no text")?,
        ])?;
        Ok(fs::read(copy)?)
    }
}

impl Drop for Unpacked {
    fn drop(&mut self) {
        let _ = docker(&["rm", &self.0]);
    }
}

fn ensure_small_and_without_shell(image: &str, at_most: u64) -> Result {
    let facts = inspected(image)?;
    let size = facts["Size"].as_u64().context("no size")?;
    ensure!(size <= at_most, "{image} takes {size} bytes");
    let config = &facts["Config"];
    ensure!(config["User"] == "65532:65532", "{config}");
    let label = |name| config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    for name in ["title", "revision", "source", "licenses"] {
        ensure!(
            label(name).is_some_and(|value| !value.is_empty()),
            "no {name}: {config}"
        );
    }
    // Of the whole workspace.
    ensure!(
        label("version") == Some(env!("CARGO_PKG_VERSION")),
        "{config}"
    );
    for file in Unpacked::of(image)?.files()? {
        let name = Path::new(&file).file_name().unwrap_or_default();
        let name = name.to_str().unwrap_or_default();
        ensure!(
            ![
                "sh", "bash", "dash", "busybox", "cc", "gcc", "ld", "perl", "openssl"
            ]
            .contains(&name),
            "{image} holds {file}"
        );
    }
    Ok(())
}

fn ensure_release_program_lists_crates(image: &str, crates: &[&str]) -> Result {
    let program = Unpacked::of(image)?.program(&format!("/usr/local/bin/{image}"))?;
    ensure!(
        !program
            .windows(KILL_VARIABLE.len())
            .any(|bytes| bytes == KILL_VARIABLE),
        "{image} was built with debug assertions, so it has kill points"
    );
    let list = audit_info_from_slice(&program, LIST_AT_MOST)?;
    for wanted in crates {
        ensure!(
            list.packages.iter().any(|package| package.name == *wanted),
            "{image} was built without {wanted}"
        );
    }
    Ok(())
}

#[test]
fn model_server_image_is_small_and_has_no_shell() -> Result {
    ensure_small_and_without_shell("model-server", MODEL_SERVER_AT_MOST)
}

#[test]
fn deployer_image_is_small_and_has_no_shell() -> Result {
    ensure_small_and_without_shell("deployer", DEPLOYER_AT_MOST)
}

#[test]
#[ignore = "needs images that docker/build compiled"]
fn model_server_image_lists_the_crates_of_its_program() -> Result {
    ensure_release_program_lists_crates("model-server", &["axum", "rten", "ort"])
}

#[test]
#[ignore = "needs images that docker/build compiled"]
fn deployer_image_lists_crates_and_has_no_kill_points() -> Result {
    ensure_release_program_lists_crates("deployer", &["clap", "tokio"])
}

/// A running container, removed when dropped.
struct Running(String);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", &self.0]);
    }
}

#[test]
fn server_uses_the_cpus_of_its_container() -> Result {
    let options = ["run", "--detach", "--cpus=1", "--network=none"];
    let settings = ["--env=MODEL_VERSION=v1", "--env=LOG_FORMAT=json"];
    let name = docker(&[&options[..], &settings[..], &["model-server"]].concat())?;
    let container = Running(String::from_utf8(name)?.trim().to_owned());
    // Follows the log, which ends with the container at the latest.
    let mut follow = Command::new("docker")
        .args(["logs", "--follow", &container.0])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = BufReader::new(follow.stderr.take().context("no log")?);
    let ready = log
        .lines()
        .map_while(std::io::Result::ok)
        .find(|line| line.contains("\"message\":\"ready\""));
    follow.kill()?;
    follow.wait()?;
    let ready: Value = serde_json::from_str(&ready.context("it never was ready")?)?;
    ensure!(ready["threads"] == 1 || ready["threads"] == "1", "{ready}");
    Ok(())
}

/// A clone of this checkout with its own images, ports, and Compose project, all removed when dropped.
struct Clone {
    directory: TempDir,
    ports: PortBlock,
    images: [String; 2],
}

impl Clone {
    fn make() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("clone-").tempdir()?;
        let cloned = Command::new("git")
            .args(["clone", "--quiet"])
            .arg(repository())
            .arg(directory.path())
            .status()?;
        ensure!(cloned.success(), "git cannot clone this checkout");
        let ports = PortBlock::take()?;
        let images =
            ["model-server", "deployer"].map(|name| format!("clone-{}-{name}", ports.router()));
        let [server, deployer] = &images;
        let owner = fs::metadata(directory.path())?;
        let variables = [
            format!("PROJECT=clone-{}", ports.router()),
            format!("BLUE_IMAGE={server}"),
            format!("GREEN_IMAGE={server}"),
            format!("DEPLOYER_IMAGE={deployer}"),
            format!("DEPLOYER_USER={}:{}", owner.uid(), owner.gid()),
            format!("ROUTER_PORT={}", ports.router()),
            format!("BLUE_PORT={}", ports.blue()),
            format!("GREEN_PORT={}", ports.green()),
            format!("CONTROL_PORT={}", ports.control()),
            format!("METRICS_PORT={}", ports.metrics()),
        ];
        fs::write(directory.path().join(".env"), variables.join("\n"))?;
        Ok(Self {
            directory,
            ports,
            images,
        })
    }

    fn compose(&self, arguments: &[&str]) -> Result {
        let output = Command::new("docker")
            .arg("compose")
            .args(arguments)
            .current_dir(self.directory.path())
            .output()?;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "compose {arguments:?}: {told}");
        Ok(())
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        let _ = self.compose(&["down", "--timeout", "20"]);
        for image in &self.images {
            let _ = docker(&["image", "rm", image]);
        }
    }
}

#[tokio::test]
#[ignore = "compiles in Docker"]
async fn compose_up_builds_missing_images_and_serves_in_a_fresh_clone() -> Result {
    let clone = Clone::make()?;
    clone.compose(&["up", "--detach", "--wait"])?;
    let local = |port: u16| format!("127.0.0.1:{port}");
    let router = local(clone.ports.router());
    let answer = post(&router, "/predict", "X-Test: 1", r#"{"text": "good"}"#).await?;
    ensure!(answer == 200, "{answer}");
    for (address, version) in [(router, "v1"), (local(clone.ports.green()), "v2")] {
        let health = get(&address, "/health").await?;
        ensure!(
            health.contains(&format!(r#""model_version":"{version}""#)),
            "{health}"
        );
    }
    let metrics = get(&local(clone.ports.metrics()), "/metrics").await?;
    ensure!(
        metrics.contains("deployer_active{color=\"blue\"} 1"),
        "{metrics}"
    );
    Ok(())
}
