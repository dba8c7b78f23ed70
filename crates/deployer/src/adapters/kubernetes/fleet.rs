//! A Deployment for each color. The routers are a StatefulSet, which the deployer does not touch.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    api::{APPLY_PATCH, Api},
    rollout::{Rollout, STARTED, check_same_image, judge},
};
use crate::{
    color::Color,
    config::{KubernetesSettings, Settings},
    doctor::finding::{Finding, last_log_lines},
    ports::{Fleet, FleetDiagnosis, PortError, Service, ServiceState},
    release::HeldRelease,
};

/// Between two looks at a rollout.
const PAUSE: Duration = Duration::from_millis(500);
/// The environment variable of the server with the version of its release.
const VERSION: &str = "MODEL_VERSION";

/// The Deployments `blue` and `green` of this pod's namespace.
pub(in crate::adapters) struct KubernetesFleet {
    api: Api,
    settings: KubernetesSettings,
}

impl KubernetesFleet {
    /// Connects with the service account of this pod.
    pub(in crate::adapters) fn connect(settings: &Settings) -> Result<Self, PortError> {
        let api = Api::of_this_pod(settings.probe.timeout)?;
        Ok(Self::new(api, settings.fleet.kubernetes.clone()))
    }

    pub(super) fn new(api: Api, settings: KubernetesSettings) -> Self {
        Self { api, settings }
    }

    async fn deployment(&self, color: Color) -> Result<Value, PortError> {
        let found = self.api.get(&self.api.deployment(color.name())).await?;
        found.ok_or_else(|| {
            PortError::Invalid(format!(
                "the Deployment {color} is missing in the namespace {}: apply the manifests of deploy/kubernetes",
                self.api.namespace
            ))
        })
    }

    /// The pods of a color, newest first.
    async fn pods(&self, color: Color) -> Result<Vec<Value>, PortError> {
        let path = self
            .api
            .core(&format!("pods?labelSelector=color%3D{color}"));
        let list = self.api.get(&path).await?.unwrap_or_default();
        let mut pods = list["items"].as_array().cloned().unwrap_or_default();
        pods.sort_by_key(|pod| {
            let created = pod["metadata"]["creationTimestamp"].as_str();
            std::cmp::Reverse(created.unwrap_or_default().to_owned())
        });
        Ok(pods)
    }

    /// Applies fields of a Deployment. Other fields stay with those who applied them.
    async fn apply(&self, color: Color, spec: Value) -> Result<(), PortError> {
        let path = format!(
            "{}?fieldManager=deployer&force=true",
            self.api.deployment(color.name())
        );
        let object = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": color.name()},
            "spec": spec,
        });
        let applied = self.api.write(Method::PATCH, &path, APPLY_PATCH, &object);
        applied.await.map(drop)
    }

    /// Starts `version` from `image`, or from the image that the Deployment has.
    async fn start_image(
        &self,
        color: Color,
        version: &str,
        image: Option<&str>,
    ) -> Result<(), PortError> {
        let before = self.deployment(color).await?;
        let image = match image {
            Some(image) => image.to_owned(),
            None => container(&before, &self.settings.container)?["image"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        };
        let container = json!({
            "name": self.settings.container,
            "image": image,
            "env": [{"name": VERSION, "value": version}],
        });
        // Without the time, a release that the color holds already would not be started again.
        let annotations = json!({STARTED: Timestamp::now().to_string()});
        let spec = json!({
            "replicas": self.settings.replicas,
            "template": {
                "metadata": {"annotations": annotations},
                "spec": {"containers": [container]},
            },
        });
        self.apply(color, spec).await?;
        self.await_rollout(color).await
    }

    /// Waits until all replicas are ready. So a release with one bad replica is refused.
    async fn await_rollout(&self, color: Color) -> Result<(), PortError> {
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            let (deployment, pods) = tokio::try_join!(self.deployment(color), self.pods(color))?;
            let failed = match judge(&deployment, &pods) {
                Rollout::Done => return check_same_image(&pods),
                Rollout::Failed(reason) => PortError::Other(reason),
                Rollout::Running { ready, wanted } if Instant::now() >= deadline => {
                    let limit = humantime::format_duration(self.settings.timeout);
                    PortError::TimedOut(format!(
                        "{ready} of {wanted} replicas of {color} are ready after {limit} (fleet.kubernetes.timeout)"
                    ))
                }
                Rollout::Running { .. } => {
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let lines = self.logs(Service::Server(color), 3).await;
            return Err(failed.map_message(|text| format!("{text}{}", last_log_lines(&lines))));
        }
    }

    /// Waits until no pod of the color is left.
    async fn await_no_pod(&self, color: Color) -> Result<(), PortError> {
        let deadline = Instant::now() + self.settings.timeout;
        loop {
            let left = self.pods(color).await?.len();
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(PortError::TimedOut(format!(
                    "{left} pods of {color} still run: a node that is away keeps its pods until it is back or deleted"
                )));
            }
            sleep(PAUSE).await;
        }
    }
}

/// The server's container in a Deployment.
fn container<'a>(deployment: &'a Value, name: &str) -> Result<&'a Value, PortError> {
    let containers = deployment.pointer("/spec/template/spec/containers");
    let containers = containers.and_then(Value::as_array);
    let found = containers
        .into_iter()
        .flatten()
        .find(|it| it["name"] == name);
    found.ok_or_else(|| {
        PortError::Invalid(format!(
            "the Deployment {} has no container {name:?} (fleet.kubernetes.container)",
            deployment["metadata"]["name"].as_str().unwrap_or("?")
        ))
    })
}

#[async_trait]
impl Fleet for KubernetesFleet {
    /// The StatefulSet keeps the routers.
    async fn start_router(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), PortError> {
        let image = self.settings.image.replace("{version}", version);
        let image = (!image.is_empty()).then_some(image);
        self.start_image(color, version, image.as_deref()).await
    }

    async fn start_again(&self, color: Color, release: &HeldRelease) -> Result<(), PortError> {
        match &release.image {
            Some(image) => self.start_image(color, &release.version, Some(image)).await,
            None => self.start(color, &release.version).await,
        }
    }

    async fn stop(&self, service: Service) -> Result<(), PortError> {
        let Service::Server(color) = service else {
            return Ok(());
        };
        self.apply(color, json!({"replicas": 0})).await?;
        self.await_no_pod(color).await
    }

    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError> {
        let Service::Server(color) = service else {
            return Ok((ServiceState::Unmanaged, None));
        };
        let deployment = self.deployment(color).await?;
        let environment = &container(&deployment, &self.settings.container)?["env"];
        let variables = environment.as_array().into_iter().flatten();
        let version = variables
            .filter(|variable| variable["name"] == VERSION)
            .find_map(|variable| variable["value"].as_str())
            .map(str::to_owned);
        // Manifests name no version, so that applying them again takes no release away.
        if version.is_none() {
            return Ok((
                ServiceState::Stopped("it was never started".to_owned()),
                None,
            ));
        }
        let wanted = deployment["spec"]["replicas"].as_u64().unwrap_or(1);
        if wanted == 0 {
            return Ok((
                ServiceState::Stopped("it has 0 replicas".to_owned()),
                version,
            ));
        }
        if deployment["status"]["replicas"].as_u64().unwrap_or(0) == 0 {
            let text = format!("no pod of its {wanted} replicas exists");
            return Ok((ServiceState::Stopped(text), version));
        }
        Ok((ServiceState::Running, version))
    }

    /// Images are on the nodes, and the kubelets remove unused ones.
    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl FleetDiagnosis for KubernetesFleet {
    async fn diagnose(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for color in Color::BOTH {
            let read = tokio::try_join!(self.deployment(color), self.pods(color));
            findings.push(match read {
                Ok((deployment, pods)) => match judge(&deployment, &pods) {
                    Rollout::Done => {
                        let text = format!("{color}: all {} replicas are ready", pods.len());
                        Finding::fine("kubernetes", text)
                    }
                    Rollout::Running { ready, wanted } => Finding::wrong(
                        "kubernetes",
                        format!("{color}: {ready} of {wanted} replicas are ready"),
                        format!("look at `kubectl describe deployment {color}`"),
                    ),
                    Rollout::Failed(reason) => Finding::wrong(
                        "kubernetes",
                        format!("{color}: {reason}"),
                        format!("look at `kubectl describe pods --selector color={color}`"),
                    ),
                },
                Err(error) => Finding::wrong(
                    "kubernetes",
                    error.to_string(),
                    "apply the manifests of deploy/kubernetes, with their roles",
                ),
            });
        }
        findings
    }

    async fn logs(&self, service: Service, lines: usize) -> Vec<String> {
        let Service::Server(color) = service else {
            return Vec::new();
        };
        let Some(pod) = self
            .pods(color)
            .await
            .ok()
            .and_then(|it| it.into_iter().next())
        else {
            return Vec::new();
        };
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let container = &self.settings.container;
        let path = format!("pods/{name}/log?container={container}&tailLines={lines}");
        let text = self.api.text(&self.api.core(&path)).await;
        text.unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    async fn stop_timeout(&self, color: Color) -> Option<Duration> {
        let deployment = self.deployment(color).await.ok()?;
        let place = "/spec/template/spec/terminationGracePeriodSeconds";
        let seconds = deployment.pointer(place)?.as_u64()?;
        Some(Duration::from_secs(seconds))
    }
}
