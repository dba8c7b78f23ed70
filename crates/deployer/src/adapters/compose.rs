//! Docker Compose services named blue, green and router.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use async_trait::async_trait;
use serde::Deserialize;
use tokio::process::Command;

use crate::{
    color::Color,
    config::{ComposeSettings, Settings},
    diagnosis::Finding,
    journal,
    ports::{Fleet, Service, State, WorldError},
};

/// Runs `docker compose`; another engine is reached through `DOCKER_HOST` as usual.
pub(super) struct ComposeFleet {
    settings: ComposeSettings,
    blue_version: String,
    green_version: String,
}

impl ComposeFleet {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.fleet.compose.clone(),
            blue_version: settings.blue.version.clone(),
            green_version: settings.green.version.clone(),
        }
    }

    /// The version that Compose starts on `color`.
    fn version(&self, color: Color) -> String {
        read_variable(&self.environment(), variable(color)).unwrap_or_else(|| match color {
            Color::Blue => self.blue_version.clone(),
            Color::Green => self.green_version.clone(),
        })
    }

    fn environment(&self) -> String {
        fs::read_to_string(&self.settings.environment_file).unwrap_or_default()
    }

    fn keep(&self, variables: &[(&str, Option<&str>)]) -> Result<(), WorldError> {
        let path = &self.settings.environment_file;
        write_variables(path, variables)
            .map_err(|error| WorldError(format!("cannot write {}: {error}", path.display())))
    }

    async fn compose(&self, arguments: &[&str]) -> Result<String, WorldError> {
        let shown = format!("docker compose {}", arguments.join(" "));
        let directory = self.settings.file.parent().unwrap_or(Path::new("."));
        let mut command = Command::new("docker");
        command
            .arg("compose")
            .arg("--file")
            .arg(&self.settings.file)
            .arg("--project-directory")
            .arg(directory);
        // Compose reads it by itself only where no file is named.
        let more = override_file(&self.settings.file);
        if more.exists() {
            command.arg("--file").arg(more);
        }
        if self.settings.environment_file.exists() {
            command
                .arg("--env-file")
                .arg(&self.settings.environment_file);
        }
        // A variable of the shell would win over the file, so that what is started would depend on
        // who starts it.
        let text = self.environment();
        for color in Color::BOTH {
            command.env(variable(color), self.version(color));
            if let Some(image) = read_variable(&text, image_variable(color)) {
                command.env(image_variable(color), image);
            }
        }
        command.args(arguments);
        self.run(&shown, command).await
    }

    async fn docker(&self, arguments: &[&str]) -> Result<String, WorldError> {
        let mut command = Command::new("docker");
        command.args(arguments);
        self.run(&format!("docker {}", arguments.join(" ")), command)
            .await
    }

    async fn run(&self, shown: &str, mut command: Command) -> Result<String, WorldError> {
        command.stdin(Stdio::null()).kill_on_drop(true);
        let timeout = self.settings.timeout;
        let output = tokio::time::timeout(timeout, command.output())
            .await
            .map_err(|_| {
                WorldError(format!(
                    "`{shown}` did not end within {}",
                    humantime::format_duration(timeout)
                ))
            })?
            .map_err(|error| {
                WorldError(format!(
                    "cannot run `{shown}`: {error}; is Docker installed?"
                ))
            })?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let errors = String::from_utf8_lossy(&output.stderr);
            Err(WorldError(format!("`{shown}` failed: {}", errors.trim())))
        }
    }
}

#[async_trait]
impl Fleet for ComposeFleet {
    async fn start_router(&self) -> Result<(), WorldError> {
        self.compose(&["up", "--detach", "router"]).await.map(drop)
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), WorldError> {
        let names = [variable(color), image_variable(color)];
        let before = self.environment();
        let before = names.map(|name| (name, read_variable(&before, name)));
        let image = Some(self.settings.image.as_str()).filter(|image| !image.is_empty());
        let image = image.or(before[1].1.as_deref());
        self.keep(&[(names[0], Some(version)), (names[1], image)])?;
        let options = ["--detach", "--no-deps", "--force-recreate"];
        let up = [&["up"], &options[..], &[color.name()]].concat();
        let Err(error) = self.compose(&up).await else {
            return Ok(());
        };
        // What cannot be started must not be what a reboot tries to start.
        let restored = self.keep(
            &before
                .each_ref()
                .map(|(name, value)| (*name, value.as_deref())),
        );
        Err(match restored {
            Ok(()) => error,
            Err(more) => WorldError(format!("{error}; {more}")),
        })
    }

    async fn stop(&self, service: Service) -> Result<(), WorldError> {
        self.compose(&["stop", service.name()]).await.map(drop)
    }

    async fn inspect(&self, service: Service) -> Result<(State, Option<String>), WorldError> {
        let printed = self
            .compose(&["ps", "--all", "--format", "json", service.name()])
            .await?;
        let version = match service {
            Service::Server(color) => Some(self.version(color)),
            Service::Router => None,
        };
        let state = parse_state(&printed).map_err(|error| {
            WorldError(format!(
                "cannot read what `docker compose ps` printed: {error}"
            ))
        })?;
        Ok((state, version))
    }

    /// Images of the repositories that the colors use, and those that lost their name to a newer one.
    async fn prune(&self, keep: usize) -> Result<(), WorldError> {
        const NAMELESS: [&str; 6] = [
            "image",
            "prune",
            "--force",
            "--filter",
            "dangling=true",
            "--filter=label=org.opencontainers.image.title=model-server",
        ];
        let inspect = async |containers: String, format: &str| {
            let mut arguments = vec!["inspect", "--format", format];
            arguments.extend(containers.lines());
            self.docker(&arguments).await
        };
        let ours = self
            .compose(&["ps", "--all", "--quiet", "blue", "green"])
            .await?;
        let names = inspect(ours, "{{.Config.Image}}").await?;
        let all = self.docker(&["ps", "--all", "--quiet"]).await?;
        let used = inspect(all, "{{.Image}}").await?;
        let repositories: BTreeSet<&str> = names.lines().map(repository).collect();
        for repository in repositories {
            let format = "{{.ID}} {{.Repository}}:{{.Tag}}";
            let list = ["image", "ls", "--no-trunc", "--format", format, repository];
            // The newest first.
            let listed = self.docker(&list).await?;
            for name in superfluous(&listed, &used, keep) {
                self.docker(&["image", "rm", name]).await?;
            }
        }
        self.docker(&NAMELESS).await.map(drop)
    }

    async fn diagnose(&self) -> Vec<Finding> {
        const INSTALL: &str = "install Docker Engine with Compose 2.20 or later, start it, and let this user use it (group docker)";
        let format = "{{.Server.Version}}";
        let engine = match self.docker(&["version", "--format", format]).await {
            Ok(version) => Finding::fine("docker", format!("engine {}", version.trim())),
            Err(error) => return vec![Finding::wrong("docker", error.to_string(), INSTALL)],
        };
        let compose = match self.docker(&["compose", "version", "--short"]).await {
            Ok(version) => Finding::fine("docker", format!("Compose {}", version.trim())),
            Err(error) => {
                return vec![engine, Finding::wrong("docker", error.to_string(), INSTALL)];
            }
        };
        let mut findings = vec![engine, compose];
        for name in ["router", "blue", "green"] {
            findings.push(self.container(name).await);
        }
        let nginx = ["exec", "--no-TTY", "router", "nginx"];
        let inside = [
            "-p",
            "/srv/router",
            "-c",
            "/etc/router/nginx.conf",
            "-e",
            "stderr",
        ];
        let test = [&nginx[..], &inside[..], &["-t", "-q"]].concat();
        let version = ["exec", "--no-TTY", "router", "sh", "-c", "nginx -v 2>&1"];
        findings.push(match self.compose(&test).await {
            Ok(_) => {
                let version = self.compose(&version).await.unwrap_or_default();
                let version = version.trim();
                Finding::fine("nginx", format!("{version}; its configuration is in order"))
            }
            Err(error) => Finding::wrong(
                "nginx",
                error.to_string(),
                "correct the files in nginx/, then `docker compose restart router`",
            ),
        });
        findings
    }

    async fn logs(&self, service: Service, lines: usize) -> Vec<String> {
        let tail = lines.to_string();
        let printed = self
            .compose(&[
                "logs",
                "--no-color",
                "--no-log-prefix",
                "--tail",
                &tail,
                service.name(),
            ])
            .await;
        printed
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl ComposeFleet {
    /// How a service's container is, or how it ended.
    async fn container(&self, name: &str) -> Finding {
        const FORMAT: &str = "{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}} {{.RestartCount}} {{.Config.Image}}";

        let topic = format!("container {name}");
        let listed = self.compose(&["ps", "--all", "--quiet", name]).await;
        let inspected = match listed.as_deref().map(str::trim) {
            Ok("") => {
                let advice = "`deployer up` starts it";
                return Finding::wrong(topic, "there is none", advice);
            }
            Ok(id) => self.docker(&["inspect", "--format", FORMAT, id]).await,
            Err(_) => listed,
        };
        let text = match inspected {
            Ok(text) => text,
            Err(error) => {
                return Finding::wrong(topic, error.to_string(), "see `docker compose ps`");
            }
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [state, code, killed, restarts, image] = fields[..] else {
            return Finding::wrong(topic, text.clone(), "this is not what Docker prints");
        };
        let service = if name == "router" {
            "ROUTER_MEMORY"
        } else {
            "COLOR_MEMORY"
        };
        match (state, killed) {
            (_, "true") => Finding::wrong(
                topic,
                format!("{state}: it was killed because it wanted more memory than it may have"),
                format!("raise {service} in .env, or deploy a smaller model"),
            ),
            // Not every engine learns of the kernel's reason.
            _ if state != "running" && code == "137" => Finding::wrong(
                topic,
                format!("{state}, exit code 137: SIGKILL ended it"),
                format!(
                    "if nobody did that, it wanted more memory than {service} in .env allows; `deployer up` starts it"
                ),
            ),
            ("running", _) if restarts == "0" => Finding::fine(topic, format!("running {image}")),
            ("running", _) => Finding::wrong(
                topic,
                format!(
                    "running {image}, restarted {restarts} times by Docker, last exit code {code}"
                ),
                format!("`docker compose logs {name}` says why it ended"),
            ),
            _ => Finding::wrong(
                topic,
                format!("{state}, exit code {code}"),
                format!("`docker compose logs {name}` says why; `deployer up` starts it"),
            ),
        }
    }
}

/// What Compose reads behind `compose.yaml`: `compose.override.yaml`.
fn override_file(file: &Path) -> PathBuf {
    let extension = file.extension().unwrap_or_default().to_string_lossy();
    file.with_extension(format!("override.{extension}"))
}

fn image_variable(color: Color) -> &'static str {
    match color {
        Color::Blue => "BLUE_IMAGE",
        Color::Green => "GREEN_IMAGE",
    }
}

/// An image's name without its tag or digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    // A colon before the last slash belongs to a registry's port.
    let name = image.rfind('/').map_or(0, |slash| slash + 1);
    let tag = image[name..].find(':').map_or(image.len(), |at| name + at);
    &image[..tag]
}

/// The images that no container uses, but for the `keep` first: their names, or their identifiers
/// where they were pulled by digest and have no tag. A line of `listed` is identifier and name.
fn superfluous<'a>(listed: &'a str, used: &str, keep: usize) -> Vec<&'a str> {
    listed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(id, _)| !used.lines().any(|used| used == *id))
        .skip(keep)
        .map(|(id, name)| if name.ends_with(":<none>") { id } else { name })
        .collect()
}

fn variable(color: Color) -> &'static str {
    match color {
        Color::Blue => "BLUE_VERSION",
        Color::Green => "GREEN_VERSION",
    }
}

/// Reads what `docker compose ps --format json` prints: one object a line, or one list of objects
/// before Compose 2.21.
fn parse_state(printed: &str) -> Result<State, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        state: String,
        #[serde(default)]
        exit_code: i64,
        #[serde(default)]
        status: String,
    }

    let printed = printed.trim();
    let container = if printed.starts_with('[') {
        serde_json::from_str::<Vec<Container>>(printed)?.pop()
    } else {
        printed
            .lines()
            .next()
            .map(serde_json::from_str::<Container>)
            .transpose()?
    };
    Ok(match container {
        None => State::Stopped("there is no container".to_owned()),
        Some(container) if container.state == "running" => State::Running,
        Some(Container {
            state,
            exit_code,
            status,
        }) => State::Stopped(format!(
            "container {state}, exit code {exit_code} ({status})"
        )),
    })
}

fn read_variable(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

/// Sets variables, or takes them out, at once, and leaves every other line as it is.
fn write_variables(path: &Path, variables: &[(&str, Option<&str>)]) -> io::Result<()> {
    // Where it is a link, what it points to is replaced and not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let assigns = |line: &&str| {
        let name = line.split('=').next().unwrap_or_default();
        line.contains('=') && variables.iter().any(|(variable, _)| *variable == name)
    };
    let mut written: String = text
        .lines()
        .filter(|line| !assigns(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    for (name, value) in variables {
        if let Some(value) = value {
            written.extend([name, "=", value, "\n"]);
        }
    }
    journal::replace(path, &written)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn one_variable_changes_and_other_lines_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        fs::write(
            &path,
            "# ours\nROUTER_PORT=80\nBLUE_VERSION=v1\nBLUE_VERSION_NOTE=x",
        )
        .unwrap();
        let set = [("BLUE_VERSION", Some("v2")), ("GREEN_VERSION", Some("v3"))];
        write_variables(&path, &set).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# ours\nROUTER_PORT=80\nBLUE_VERSION_NOTE=x\nBLUE_VERSION=v2\nGREEN_VERSION=v3\n"
        );
        write_variables(&path, &[("BLUE_VERSION", None)]).unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# ours\nROUTER_PORT=80\nBLUE_VERSION_NOTE=x\nGREEN_VERSION=v3\n"
        );
    }

    #[test]
    fn the_override_file_lies_beside_the_file_and_is_called_like_it() {
        let path = override_file(Path::new("a/compose.yaml"));
        assert_eq!(path, Path::new("a/compose.override.yaml"));
    }

    #[test]
    fn a_variable_is_read_as_compose_reads_it() {
        let text = "BLUE_VERSION=v1\nBLUE_VERSION=\"v2\"\nGREEN_VERSION=\n";
        assert_eq!(read_variable(text, "BLUE_VERSION").as_deref(), Some("v2"));
        assert_eq!(read_variable(text, "GREEN_VERSION"), None);
        assert_eq!(read_variable(text, "BLUE"), None);
    }

    #[test]
    fn a_container_is_running_or_stopped_with_its_reason() {
        let state = |printed| parse_state(printed).unwrap();
        let running = r#"{"Name":"x","State":"running","ExitCode":0,"Status":"Up 3 seconds"}"#;
        assert_eq!(state(running), State::Running);
        assert_eq!(
            state(
                r#"{"Name":"x","State":"exited","ExitCode":137,"Status":"Exited (137) 2 seconds ago"}"#
            ),
            State::Stopped(
                "container exited, exit code 137 (Exited (137) 2 seconds ago)".to_owned()
            )
        );
        assert_eq!(
            state(""),
            State::Stopped("there is no container".to_owned())
        );
    }

    #[test]
    fn older_versions_of_compose_print_a_list() {
        let state = |printed| parse_state(printed).unwrap();
        assert_eq!(
            state(r#"[{"Name":"x","State":"running","ExitCode":0}]"#),
            State::Running
        );
        assert_eq!(
            state("[]"),
            State::Stopped("there is no container".to_owned())
        );
    }

    #[test]
    fn what_cannot_be_read_is_not_taken_for_a_container_that_is_gone() {
        assert!(parse_state("WARNING: something").is_err());
    }

    #[test]
    fn a_repository_is_a_name_without_its_tag() {
        for (image, name) in [
            ("model-server:latest", "model-server"),
            ("model-server", "model-server"),
            (
                "registry:5000/team/model-server:v2",
                "registry:5000/team/model-server",
            ),
            ("registry:5000/model-server", "registry:5000/model-server"),
            ("model-server@sha256:00", "model-server"),
            (
                "registry:5000/model-server:v2@sha256:00",
                "registry:5000/model-server",
            ),
        ] {
            assert_eq!(repository(image), name);
        }
    }

    #[test]
    fn images_in_use_and_the_newest_of_the_others_stay() {
        let listed = "5 m:v5\n4 m:v4\n3 m:v3\n2 m:<none>\n1 m:v1\n0 m:v0\n";
        assert_eq!(superfluous(listed, "4\n0\n", 1), ["m:v3", "2", "m:v1"]);
        assert_eq!(superfluous(listed, "4\n0\n", 9), [""; 0]);
    }

    #[test]
    fn a_private_file_stays_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(".env");
        fs::write(&path, "SECRET=x\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write_variables(&path, &[("BLUE_VERSION", Some("v2"))]).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
}
