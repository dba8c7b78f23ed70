//! Docker Compose services named blue, green and router.

use std::{
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
        let text = fs::read_to_string(&self.settings.environment_file).unwrap_or_default();
        read_variable(&text, variable(color)).unwrap_or_else(|| match color {
            Color::Blue => self.blue_version.clone(),
            Color::Green => self.green_version.clone(),
        })
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
        if self.settings.environment_file.exists() {
            command
                .arg("--env-file")
                .arg(&self.settings.environment_file);
        }
        // A variable of the shell would win over the file, so that what is started would depend on
        // who starts it.
        for color in Color::BOTH {
            command.env(variable(color), self.version(color));
        }
        command
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
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
        write_variable(&self.settings.environment_file, variable(color), version).map_err(
            |error| {
                WorldError(format!(
                    "cannot write {}: {error}",
                    self.settings.environment_file.display()
                ))
            },
        )?;
        self.compose(&[
            "up",
            "--detach",
            "--no-deps",
            "--force-recreate",
            color.name(),
        ])
        .await
        .map(drop)
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
        Ok((parse_state(&printed), version))
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

fn variable(color: Color) -> &'static str {
    match color {
        Color::Blue => "BLUE_VERSION",
        Color::Green => "GREEN_VERSION",
    }
}

/// Reads what `docker compose ps --format json` prints: one object a line.
fn parse_state(printed: &str) -> State {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        state: String,
        #[serde(default)]
        exit_code: i64,
        #[serde(default)]
        status: String,
    }

    let container = printed
        .lines()
        .find_map(|line| serde_json::from_str::<Container>(line).ok());
    match container {
        None => State::Stopped("there is no container".to_owned()),
        Some(Container { state, .. }) if state == "running" => State::Running,
        Some(Container {
            state,
            exit_code,
            status,
        }) => State::Stopped(format!(
            "container {state}, exit code {exit_code} ({status})"
        )),
    }
}

fn read_variable(text: &str, name: &str) -> Option<String> {
    let value = text
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|value| !value.is_empty())
}

/// Sets one variable and leaves every other line as it is.
fn write_variable(path: &PathBuf, name: &str, value: &str) -> io::Result<()> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let assigns = |line: &&str| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('='))
    };
    let mut written: String = text
        .lines()
        .filter(|line| !assigns(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    written.extend([name, "=", value, "\n"]);
    journal::replace(path, &written)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
        write_variable(&path, "BLUE_VERSION", "v2").unwrap();
        write_variable(&path, "GREEN_VERSION", "v3").unwrap();
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "# ours\nROUTER_PORT=80\nBLUE_VERSION_NOTE=x\nBLUE_VERSION=v2\nGREEN_VERSION=v3\n"
        );
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
        assert_eq!(
            parse_state(r#"{"Name":"x","State":"running","ExitCode":0,"Status":"Up 3 seconds"}"#),
            State::Running
        );
        assert_eq!(
            parse_state(
                r#"{"Name":"x","State":"exited","ExitCode":137,"Status":"Exited (137) 2 seconds ago"}"#
            ),
            State::Stopped(
                "container exited, exit code 137 (Exited (137) 2 seconds ago)".to_owned()
            )
        );
        assert_eq!(
            parse_state(""),
            State::Stopped("there is no container".to_owned())
        );
    }

    #[tokio::test]
    async fn a_missing_compose_file_is_named() {
        let mut settings = crate::config::load(None).unwrap();
        settings.fleet.compose.file = PathBuf::from("/nonexistent/compose.yaml");
        settings.fleet.compose.timeout = Duration::from_secs(30);
        let error = ComposeFleet::new(&settings)
            .stop(Service::Router)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("docker compose stop router"), "{error}");
    }
}
