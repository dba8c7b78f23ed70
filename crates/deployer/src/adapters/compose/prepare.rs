//! Fetches an image before a color is touched: a registry that fails, or is slow, must not cost the standby.

use std::process::Stdio;

use tokio::{process::Command, time::timeout};

use crate::{
    adapters::compose::{ComposeFleet, failure, model::set_release},
    color::Color,
    ports::PortError,
};

impl ComposeFleet {
    /// Pulls the image of a release unless the engine has it.
    pub(super) async fn fetch_image(
        &self,
        color: Color,
        version: &str,
        image: Option<&str>,
    ) -> Result<(), PortError> {
        let release = (color, version, image);
        let mut model = self.model(Some(release)).await?;
        let service = model.services.remove(color.name()).unwrap_or_default();
        // A service that is built, and has no name for its image.
        let Some(image) = &service.image else {
            return Ok(());
        };
        if !service.is_always_pulled() && self.has_image(image).await? {
            return Ok(());
        }
        let (shown, mut command) = self.compose_command(&["pull", "--quiet", color.name()]);
        set_release(&mut command, release);
        let pulled = self.pull(&shown, command).await;
        pulled.map_err(|error| {
            error.map_message(|message| format!("cannot fetch the image {image}: {message}"))
        })?;
        // Compose reports some failures of a registry as warnings.
        if self.has_image(image).await? {
            return Ok(());
        }
        Err(PortError::ProgramFailed(format!(
            "the engine has no image {image}, and `{shown}` brought none: check its name, or build it"
        )))
    }

    async fn has_image(&self, image: &str) -> Result<bool, PortError> {
        let inspect = ["image", "inspect", "--format", "{{.Id}}", image];
        match self.docker(&inspect).await {
            Ok(_) => Ok(true),
            Err(PortError::ProgramFailed(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Runs a command that pulls, which may take longer than others.
    async fn pull(&self, shown: &str, mut command: Command) -> Result<(), PortError> {
        let bound = self.settings.pull_timeout;
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(bound, command.output()).await.map_err(|_| {
            PortError::TimedOut(format!(
                "`{shown}` did not end within {} (fleet.compose.pull_timeout)",
                humantime::format_duration(bound)
            ))
        })?;
        let output = output
            .map_err(|error| PortError::NoProgram(format!("cannot run `{shown}`: {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(failure::of_docker(shown, errors.trim()))
    }
}
