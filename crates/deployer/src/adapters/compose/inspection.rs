//! What a person wants to know about the containers.

use std::{process::Stdio, time::Duration};

use async_trait::async_trait;

use crate::{
    adapters::{
        compose::{ComposeFleet, MONITOR, container::Container, model::DEFAULT_STOP_TIMEOUT},
        nginx::configuration,
    },
    color::Color,
    doctor::finding::Finding,
    ports::{ACTIVITY_LINES, Activity, FleetDiagnosis, PortError, Service},
};

#[async_trait]
impl FleetDiagnosis for ComposeFleet {
    async fn diagnose(&self) -> Vec<Finding> {
        self.examine().await
    }

    async fn diagnose_offline(&self) -> Vec<Finding> {
        self.examine_files().await
    }

    async fn configured_stop_timeout(&self, color: Color) -> Option<Duration> {
        self.stop_timeout_in_file(color).await
    }

    async fn router_difference(&self) -> Option<String> {
        let container = self.container(Service::Router.name()).await.ok()??;
        if self.would_recreate_router().await {
            return Some(
                "compose.yaml, .env, or the image differs from what its container was made of; `docker compose up \
                 --detach router` replaces it, and interrupts clients"
                    .to_owned(),
            );
        }
        let started: jiff::Timestamp = container.state.started_at.parse().ok()?;
        let changed =
            configuration::changed_since(self.nginx_configuration.as_ref()?, started.into())?;
        Some(format!(
            "{changed} changed since its container started; `docker compose kill -s HUP router` makes nginx read it again"
        ))
    }

    async fn logs(&self, service: Service, lines: usize) -> Vec<String> {
        self.last_lines(service.name(), lines).await
    }

    async fn activity(&self, color: Color) -> Activity {
        let usage = async {
            let container = self.container(color.name()).await.ok()??;
            Some((self.usage(&container).await, container.restart_count))
        };
        let log = self.last_lines(color.name(), ACTIVITY_LINES);
        let (log, usage) = tokio::join!(log, usage);
        let (usage, restarts) = usage.unzip();
        let usage = usage.unwrap_or_default();
        Activity {
            log,
            disk_read: usage.disk_read,
            memory: usage.memory,
            restarts,
        }
    }

    async fn stop_timeout(&self, color: Color) -> Option<Duration> {
        let container = self.container(color.name()).await.ok()??;
        let seconds = container.config.stop_timeout;
        Some(seconds.map_or(DEFAULT_STOP_TIMEOUT, Duration::from_secs))
    }
}

impl ComposeFleet {
    /// Whether the Compose file has the service `monitor`.
    pub(super) async fn has_monitor(&self) -> Result<bool, PortError> {
        let services = self.compose(&["config", "--services"]).await?;
        Ok(services.lines().any(|service| service == MONITOR))
    }

    /// Whether `docker compose up` would replace the router's container. A version of Compose without `--dry-run` cannot
    /// tell.
    async fn would_recreate_router(&self) -> bool {
        let (_, mut command) =
            self.compose_command(&["--dry-run", "up", "--detach", "--no-deps", "router"]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(self.settings.timeout, command.output()).await;
        // Compose reports progress as errors.
        matches!(output, Ok(Ok(output)) if String::from_utf8_lossy(&output.stderr).contains(" Recreate"))
    }

    pub(super) async fn last_lines(&self, name: &str, lines: usize) -> Vec<String> {
        // Some versions of Compose print it at the start of each line.
        const CLEAR_LINE: &str = "\x1b[2K";

        let tail = lines.to_string();
        let plain = ["logs", "--no-color", "--no-log-prefix"];
        let printed = self
            .compose(&[&plain[..], &["--tail", &tail, name]].concat())
            .await;
        let printed = printed.unwrap_or_default().replace(CLEAR_LINE, "");
        printed.lines().map(str::to_owned).collect()
    }

    /// The container of a service, running or not; `None` if the service has no container.
    pub(super) async fn container(&self, name: &str) -> Result<Option<Container>, PortError> {
        let listed = self.compose(&["ps", "--all", "--quiet", name]).await?;
        let Some(id) = listed.lines().next() else {
            return Ok(None);
        };
        let printed = self
            .docker(&["inspect", "--format", "{{json .}}", id])
            .await?;
        serde_json::from_str(&printed).map(Some).map_err(|error| {
            PortError::Invalid(format!(
                "cannot read what `docker inspect` printed: {error}"
            ))
        })
    }
}
