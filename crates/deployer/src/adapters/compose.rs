//! Docker Compose services named `blue`, `green`, and `router`.

mod changes;
mod container;
mod diagnosis;
mod failure;
mod images;
mod inspection;
mod model;
mod offline;
mod prepare;
mod usage;
mod variables;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use async_trait::async_trait;
use tokio::process::Command;

use crate::{
    adapters::compose::{
        changes::Changes,
        container::parse_state,
        images::{repository, unused_images},
        variables::{read_variable, write_variables},
    },
    color::Color,
    config::{ComposeSettings, Settings},
    ports::{Fleet, PortError, Service, ServiceState},
    release::HeldRelease,
};

/// The name of the service that runs `deployer monitor`.
const MONITOR: &str = "monitor";

/// Runs `docker compose`.
pub(super) struct ComposeFleet {
    settings: ComposeSettings,
    nginx_configuration: Option<PathBuf>,
    blue_version: String,
    green_version: String,
    urls: [String; 2],
    min_free_megabytes: u64,
    changes: Changes,
}

impl ComposeFleet {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.fleet.compose.clone(),
            nginx_configuration: settings.router.configuration.clone(),
            blue_version: settings.blue.version.clone(),
            green_version: settings.green.version.clone(),
            urls: Color::BOTH.map(|color| settings.color(color).url.clone()),
            min_free_megabytes: settings.min_free_megabytes,
            changes: Changes::default(),
        }
    }

    /// The version that Compose starts on `color`.
    fn version(&self, color: Color) -> String {
        read_variable(&self.environment(), variable(color)).unwrap_or_else(|| match color {
            Color::Blue => self.blue_version.clone(),
            Color::Green => self.green_version.clone(),
        })
    }

    /// The address of a color's server.
    fn url(&self, color: Color) -> &str {
        let [blue, green] = &self.urls;
        match color {
            Color::Blue => blue,
            Color::Green => green,
        }
    }

    fn environment(&self) -> String {
        fs::read_to_string(&self.settings.environment_file).unwrap_or_default()
    }

    /// The image of the next release of `color`; `None` for Compose's default image.
    fn image_to_start(&self, color: Color) -> Option<String> {
        let wanted = Some(self.settings.image.clone()).filter(|image| !image.is_empty());
        wanted.or_else(|| self.image(color))
    }

    fn keep(&self, variables: &[(&str, Option<&str>)]) -> Result<(), PortError> {
        let path = &self.settings.environment_file;
        write_variables(path, variables).map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            PortError::of_file(&error, message)
        })
    }

    async fn compose(&self, arguments: &[&str]) -> Result<String, PortError> {
        let (shown, command) = self.compose_command(arguments);
        self.run(&shown, command).await
    }

    /// Runs a command that changes containers.
    async fn change(&self, arguments: &[&str]) -> Result<String, PortError> {
        let (shown, command) = self.compose_command(arguments);
        let printed = self.printed(&shown, self.changes.run(command)).await?;
        printed.map_err(|errors| failure::of_docker(&shown, &errors))
    }

    /// Replaces what `color` runs by `version` of `image`; by Compose's default image if that is `None`.
    async fn start_image(
        &self,
        color: Color,
        version: &str,
        image: Option<&str>,
    ) -> Result<(), PortError> {
        let names = [variable(color), image_variable(color)];
        let before = self.environment();
        let before = names.map(|name| (name, read_variable(&before, name)));
        self.keep(&[(names[0], Some(version)), (names[1], image)])?;
        // A missing image is an error. A build takes longer than the timeout, and would give the wanted
        // release's name to whatever the checkout holds.
        let options = ["--detach", "--no-build", "--no-deps", "--force-recreate"];
        let up = [&["up"], &options[..], &[color.name()]].concat();
        let Err(error) = self.change(&up).await else {
            return Ok(());
        };
        // A release that does not start must not be started after a reboot.
        let restored = self.keep(
            &before
                .each_ref()
                .map(|(name, value)| (*name, value.as_deref())),
        );
        Err(match restored {
            Ok(()) => error,
            Err(more) => error.map_message(|message| format!("{message}; {more}")),
        })
    }

    /// A command of Compose, and how it is shown to a person.
    fn compose_command(&self, arguments: &[&str]) -> (String, Command) {
        let shown = format!("docker compose {}", arguments.join(" "));
        let directory = self.settings.file.parent().unwrap_or(Path::new("."));
        let mut command = Command::new("docker");
        command
            .arg("compose")
            .arg("--file")
            .arg(&self.settings.file)
            .arg("--project-directory")
            .arg(directory);
        // Compose reads it by itself only if no file is named.
        let more = override_file(&self.settings.file);
        if more.exists() {
            command.arg("--file").arg(more);
        }
        if self.settings.environment_file.exists() {
            command
                .arg("--env-file")
                .arg(&self.settings.environment_file);
        }
        // A variable of the shell would override the file, so that the result would depend on the user's shell.
        let text = self.environment();
        for color in Color::BOTH {
            command.env(variable(color), self.version(color));
            if let Some(image) = read_variable(&text, image_variable(color)) {
                command.env(image_variable(color), image);
            }
        }
        command.args(arguments);
        (shown, command)
    }

    async fn docker(&self, arguments: &[&str]) -> Result<String, PortError> {
        let mut command = Command::new("docker");
        command.args(arguments);
        self.run(&format!("docker {}", arguments.join(" ")), command)
            .await
    }

    async fn run(&self, shown: &str, command: Command) -> Result<String, PortError> {
        let printed = self.output(shown, command).await?;
        printed.map_err(|errors| failure::of_docker(shown, &errors))
    }

    /// Runs a command. The inner result is what it printed if it succeeded, and its errors if it failed.
    async fn output(
        &self,
        shown: &str,
        mut command: Command,
    ) -> Result<Result<String, String>, PortError> {
        command.stdin(Stdio::null()).kill_on_drop(true);
        self.printed(shown, command.output()).await
    }

    /// Waits for a command. The result is as that of [`Self::output`].
    async fn printed(
        &self,
        shown: &str,
        output: impl Future<Output = io::Result<Output>>,
    ) -> Result<Result<String, String>, PortError> {
        let timeout = self.settings.timeout;
        let output = tokio::time::timeout(timeout, output)
            .await
            .map_err(|_| {
                PortError::TimedOut(format!(
                    "`{shown}` did not end within {}",
                    humantime::format_duration(timeout)
                ))
            })?
            // The kernel also denies permission if a directory of PATH may not be searched and Docker is in none.
            .map_err(|error| {
                PortError::NoProgram(format!(
                    "cannot run `{shown}`: {error}; is Docker installed?"
                ))
            })?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr).trim().to_owned())
        })
    }
}

#[async_trait]
impl Fleet for ComposeFleet {
    async fn start_router(&self) -> Result<(), PortError> {
        match self.inspect(Service::Router).await?.0 {
            // `up` would replace a container whose files changed, and so interrupt clients.
            ServiceState::Running | ServiceState::Unmanaged => Ok(()),
            ServiceState::Paused(_) => self.change(&["unpause", "router"]).await.map(drop),
            ServiceState::Stopped(_) => self.change(&["up", "--detach", "router"]).await.map(drop),
        }
    }

    async fn prepare(&self, color: Color, version: &str) -> Result<(), PortError> {
        let image = self.image_to_start(color);
        self.fetch_image(color, version, image.as_deref()).await
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), PortError> {
        let image = self.image_to_start(color);
        self.start_image(color, version, image.as_deref()).await
    }

    async fn start_again(&self, color: Color, release: &HeldRelease) -> Result<(), PortError> {
        let HeldRelease { version, image, .. } = release;
        self.start_image(color, version, image.as_deref()).await
    }

    fn image(&self, color: Color) -> Option<String> {
        read_variable(&self.environment(), image_variable(color))
    }

    async fn stop(&self, service: Service) -> Result<(), PortError> {
        self.change(&["stop", service.name()]).await.map(drop)
    }

    /// One command stops both, because commands that change containers run one at a time.
    async fn stop_servers(&self) -> Vec<PortError> {
        let [blue, green] = Color::BOTH.map(Color::name);
        let stopped = self.change(&["stop", blue, green]).await;
        stopped.err().into_iter().collect()
    }

    async fn await_abandoned(&self) {
        self.changes.await_abandoned().await;
    }

    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError> {
        let printed = self
            .compose(&["ps", "--all", "--format", "json", service.name()])
            .await?;
        let version = match service {
            Service::Server(color) => Some(self.version(color)),
            Service::Router => None,
        };
        let state = parse_state(&printed).map_err(|error| {
            PortError::Invalid(format!(
                "cannot read what `docker compose ps` printed: {error}"
            ))
        })?;
        Ok((state, version))
    }

    async fn start_monitor(&self) -> Result<(), PortError> {
        if !self.has_monitor().await? {
            return Ok(());
        }
        // Without the services that it depends on, which run.
        match self
            .compose(&["ps", "--all", "--quiet", MONITOR])
            .await?
            .lines()
            .next()
        {
            Some(container) => self.docker(&["start", container]).await.map(drop),
            None => Ok(()),
        }
    }

    async fn stop_monitor(&self) -> Result<(), PortError> {
        if self.has_monitor().await? {
            self.change(&["stop", MONITOR]).await?;
        }
        Ok(())
    }

    /// Lists images of the colors' repositories, and images that lost their name to a newer one.
    async fn prune(&self, keep: usize) -> Result<(), PortError> {
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
        // A container of another service may be removed between the two commands.
        let mut tries_left = 5;
        let used = loop {
            let all = self.docker(&["ps", "--all", "--quiet"]).await?;
            tries_left -= 1;
            match inspect(all, "{{.Image}}").await {
                Err(_) if tries_left > 0 => {}
                used => break used?,
            }
        };
        let repositories: BTreeSet<&str> = names.lines().map(repository).collect();
        for repository in repositories {
            let format = "{{.ID}} {{.Repository}}:{{.Tag}}";
            let list = ["image", "ls", "--no-trunc", "--format", format, repository];
            // Newest first.
            let listed = self.docker(&list).await?;
            for name in unused_images(&listed, &used, keep) {
                self.docker(&["image", "rm", name]).await?;
            }
        }
        self.docker(&NAMELESS).await.map(drop)
    }
}

/// The file that Compose reads after `compose.yaml`: `compose.override.yaml`.
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

fn variable(color: Color) -> &'static str {
    match color {
        Color::Blue => "BLUE_VERSION",
        Color::Green => "GREEN_VERSION",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn override_file_is_found_beside_compose_file() {
        let path = override_file(Path::new("a/compose.yaml"));
        assert_eq!(path, Path::new("a/compose.override.yaml"));
    }
}
