//! The Compose files as Compose reads them: `docker compose config` needs no engine.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;

use crate::{
    adapters::compose::{ComposeFleet, failure, image_variable, variable},
    color::Color,
    ports::PortError,
};

/// Docker's default of `stop_grace_period`.
pub(super) const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What Compose reads from its files.
#[derive(Debug, Deserialize)]
pub(super) struct ComposeModel {
    #[serde(default)]
    pub(super) services: BTreeMap<String, ComposeService>,
}

/// A service of a Compose file, as far as this program needs it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ComposeService {
    pub(super) image: Option<String>,
    pub(super) pull_policy: Option<String>,
    pub(super) stop_grace_period: Option<String>,
    #[serde(default)]
    pub(super) ports: Vec<Port>,
    /// What this program does not read.
    #[serde(flatten)]
    pub(super) rest: BTreeMap<String, Value>,
}

/// A port of a service.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Port {
    /// On the machine.
    pub(super) published: Option<String>,
}

impl ComposeService {
    /// How long it may take to stop before it is killed.
    pub(super) fn stop_timeout(&self) -> Duration {
        let written = self.stop_grace_period.as_deref().and_then(parse_duration);
        written.unwrap_or(DEFAULT_STOP_TIMEOUT)
    }

    /// Whether Compose asks the registry although the engine has the image.
    pub(super) fn is_always_pulled(&self) -> bool {
        let policy = self.pull_policy.as_deref().unwrap_or_default();
        policy == "always"
            || policy == "daily"
            || policy == "weekly"
            || policy.starts_with("every_")
    }
}

/// Parses a duration as Compose prints it, such as `1m30s`.
fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

impl ComposeFleet {
    /// Reads the Compose files. With `release`, as if this color were to run this version of this image.
    pub(super) async fn model(
        &self,
        release: Option<(Color, &str, Option<&str>)>,
    ) -> Result<ComposeModel, PortError> {
        let (shown, mut command) = self.compose_command(&["config", "--format", "json"]);
        if let Some(release) = release {
            set_release(&mut command, release);
        }
        let printed = self.output(&shown, command).await?;
        let printed = printed.map_err(|errors| failure::of_docker(&shown, &errors))?;
        serde_json::from_str(&printed).map_err(|error| {
            PortError::Invalid(format!("cannot read what `{shown}` printed: {error}"))
        })
    }
}

/// Lets a command of Compose see the release of a color as if its variables were written already.
pub(super) fn set_release(
    command: &mut Command,
    (color, version, image): (Color, &str, Option<&str>),
) {
    command.env(variable(color), version);
    match image {
        Some(image) => command.env(image_variable(color), image),
        None => command.env_remove(image_variable(color)),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_is_read_from_what_compose_prints() {
        let printed = r#"{"name":"x","services":{
            "blue":{"image":"vllm:1","stop_grace_period":"1m30s","pull_policy":"always","command":null},
            "green":{"build":{"context":"."}}}}"#;
        let model: ComposeModel = serde_json::from_str(printed).unwrap();
        let (blue, green) = (&model.services["blue"], &model.services["green"]);
        assert_eq!(blue.image.as_deref(), Some("vllm:1"));
        assert_eq!(blue.stop_timeout(), Duration::from_secs(90));
        assert!(blue.is_always_pulled());
        assert_eq!(green.stop_timeout(), DEFAULT_STOP_TIMEOUT);
        assert!(!green.is_always_pulled());
    }
}
