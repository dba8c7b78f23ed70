//! The content of the images `model-server:latest` and `deployer:latest`, which must exist.
//!
//! Some tests compile in Docker, or need images that were compiled there. They are ignored by default, because
//! `make test` builds the images from the host's programs (`docker/build --from-host`). After `docker/build`, run
//! all of them: `cargo nextest run --locked -E 'binary(images)' --run-ignored all`.

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

/// The largest allowed size of each image, in bytes.
const MODEL_SERVER_MAX_SIZE: u64 = 120_000_000;
const DEPLOYER_MAX_SIZE: u64 = 40_000_000;
/// The largest allowed size of the crate list in a program, in bytes.
const CRATE_LIST_MAX_SIZE: usize = 10_000_000;

/// The environment variable that selects a kill point. Only a build with debug assertions contains its name.
const KILL_VARIABLE: &[u8] = b"DEPLOYER_KILL_AT";

fn docker(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new("docker").args(arguments).output()?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "`docker {arguments:?}` failed: {stderr}"
    );
    Ok(output.stdout)
}

fn inspect_image(image: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&docker(&[
        "image",
        "inspect",
        "--format",
        "{{json .}}",
        image,
    ])?)?)
}

/// A container that is created but never started, to read its files. It is removed when this is dropped.
struct StoppedContainer(String);

impl StoppedContainer {
    fn create(image: &str) -> Result<Self> {
        let id = docker(&["create", image])?;
        Ok(Self(String::from_utf8(id)?.trim().to_owned()))
    }

    /// Returns the paths of the container's files.
    fn files(&self) -> Result<Vec<String>> {
        let directory = tempfile::tempdir()?;
        let archive = directory.path().join("all.tar");
        let path = archive
            .to_str()
            .context("the path of the temporary directory is not UTF-8")?;
        docker(&["export", "--output", path, &self.0])?;
        let output = Command::new("tar").arg("-tf").arg(&archive).output()?;
        ensure!(
            output.status.success(),
            "tar cannot list the exported files"
        );
        let list = String::from_utf8(output.stdout)?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// Returns the content of a program in the container.
    fn read_program(&self, path: &str) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir()?;
        let copy = directory.path().join("program");
        let from = format!("{}:{path}", self.0);
        docker(&[
            "cp",
            &from,
            copy.to_str()
                .context("the path of the temporary directory is not UTF-8")?,
        ])?;
        Ok(fs::read(copy)?)
    }
}

impl Drop for StoppedContainer {
    fn drop(&mut self) {
        let _ = docker(&["rm", &self.0]);
    }
}

fn ensure_small_and_without_shell(image: &str, max_size: u64) -> Result {
    let facts = inspect_image(image)?;
    let size = facts["Size"].as_u64().context("the image has no size")?;
    ensure!(
        size <= max_size,
        "{image} has {size} bytes, but at most {max_size} are allowed"
    );
    let config = &facts["Config"];
    ensure!(config["User"] == "65532:65532", "{config}");
    let label = |name| config["Labels"][format!("org.opencontainers.image.{name}")].as_str();
    for name in ["title", "revision", "source", "licenses"] {
        ensure!(
            label(name).is_some_and(|value| !value.is_empty()),
            "the image has no label {name}: {config}"
        );
    }
    // All crates of the workspace share one version.
    ensure!(
        label("version") == Some(env!("CARGO_PKG_VERSION")),
        "{config}"
    );
    for file in StoppedContainer::create(image)?.files()? {
        let name = Path::new(&file).file_name().unwrap_or_default();
        let name = name.to_str().unwrap_or_default();
        ensure!(
            ![
                "sh", "bash", "dash", "busybox", "cc", "gcc", "ld", "perl", "openssl"
            ]
            .contains(&name),
            "{image} contains {file}"
        );
    }
    Ok(())
}

fn ensure_release_program_lists_crates(image: &str, crates: &[&str]) -> Result {
    let program =
        StoppedContainer::create(image)?.read_program(&format!("/usr/local/bin/{image}"))?;
    ensure!(
        !program
            .windows(KILL_VARIABLE.len())
            .any(|bytes| bytes == KILL_VARIABLE),
        "{image} was built with debug assertions, so it has kill points"
    );
    let list = audit_info_from_slice(&program, CRATE_LIST_MAX_SIZE)?;
    for wanted in crates {
        ensure!(
            list.packages.iter().any(|package| package.name == *wanted),
            "the program in {image} does not list the crate {wanted}"
        );
    }
    Ok(())
}

#[test]
fn model_server_image_is_small_and_has_no_shell() -> Result {
    ensure_small_and_without_shell("model-server", MODEL_SERVER_MAX_SIZE)
}

#[test]
fn deployer_image_is_small_and_has_no_shell() -> Result {
    ensure_small_and_without_shell("deployer", DEPLOYER_MAX_SIZE)
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

/// A running container. It is removed when this is dropped.
struct RunningContainer(String);

impl Drop for RunningContainer {
    fn drop(&mut self) {
        let _ = docker(&["rm", "--force", &self.0]);
    }
}

#[test]
fn server_uses_the_cpus_of_its_container() -> Result {
    let options = ["run", "--detach", "--cpus=1", "--network=none"];
    let settings = ["--env=MODEL_VERSION=v1", "--env=LOG_FORMAT=json"];
    let id = docker(&[&options[..], &settings[..], &["model-server"]].concat())?;
    let container = RunningContainer(String::from_utf8(id)?.trim().to_owned());
    // The log ends with the container, so reading it cannot wait forever.
    let mut log_reader = Command::new("docker")
        .args(["logs", "--follow", &container.0])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let log = BufReader::new(log_reader.stderr.take().context("the log is not piped")?);
    let ready = log
        .lines()
        .map_while(std::io::Result::ok)
        .find(|line| line.contains("\"message\":\"ready\""));
    log_reader.kill()?;
    log_reader.wait()?;
    let ready: Value = serde_json::from_str(&ready.context("the log has no line \"ready\"")?)?;
    ensure!(ready["threads"] == 1 || ready["threads"] == "1", "{ready}");
    Ok(())
}

/// A clone of this checkout with its own images, ports, and Compose project. Dropping it removes all of them.
struct FreshClone {
    directory: TempDir,
    ports: PortBlock,
    images: [String; 2],
}

impl FreshClone {
    fn create() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("clone-").tempdir()?;
        let status = Command::new("git")
            .args(["clone", "--quiet"])
            .arg(repository())
            .arg(directory.path())
            .status()?;
        ensure!(status.success(), "git cannot clone this checkout");
        let ports = PortBlock::reserve()?;
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
            format!("PAGE_PORT={}", ports.page()),
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
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`docker compose {arguments:?}` failed: {stderr}"
        );
        Ok(())
    }
}

impl Drop for FreshClone {
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
    let clone = FreshClone::create()?;
    clone.compose(&["up", "--detach", "--wait"])?;
    let address = |port: u16| format!("127.0.0.1:{port}");
    let router = address(clone.ports.router());
    let status = post(&router, "/predict", "X-Test: 1", r#"{"text": "good"}"#).await?;
    ensure!(status == 200, "{status}");
    for (address, version) in [(router, "v1"), (address(clone.ports.green()), "v2")] {
        let health = get(&address, "/health").await?;
        ensure!(
            health.contains(&format!(r#""model_version":"{version}""#)),
            "{health}"
        );
    }
    let metrics = get(&address(clone.ports.metrics()), "/metrics").await?;
    ensure!(
        metrics.contains("deployer_active{color=\"blue\"} 1"),
        "{metrics}"
    );
    Ok(())
}
