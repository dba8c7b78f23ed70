//! What the Compose files say, without an engine.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    adapters::{
        compose::{ComposeFleet, image_variable, model::ComposeService, variable},
        listeners,
    },
    color::Color,
    doctor::finding::Finding,
};

const TOPIC: &str = "compose";
/// Two versions that no file names.
const VERSIONS: [&str; 2] = ["version-one", "version-two"];

impl ComposeFleet {
    pub(super) async fn examine_files(&self) -> Vec<Finding> {
        let file = self.settings.file.display();
        let model = match self.model(None).await {
            Ok(model) => model.services,
            Err(error) => {
                let advice = format!(
                    "correct {file} or {}",
                    self.settings.environment_file.display()
                );
                return vec![Finding::wrong(TOPIC, error.to_string(), advice)];
            }
        };
        let mut findings = Vec::new();
        for name in ["blue", "green", "router"] {
            if !model.contains_key(name) {
                let text = format!("{file} has no service {name}");
                let advice = "name the services blue, green, and router";
                findings.push(Finding::wrong(TOPIC, text, advice));
            }
        }
        for color in Color::BOTH {
            if let Some(service) = model.get(color.name()) {
                findings.extend(self.port(color, service));
                findings.extend(self.version_is_used(color).await);
            }
        }
        if findings.is_empty() {
            let images: BTreeMap<&str, &str> = model
                .iter()
                .filter_map(|(name, service)| Some((name.as_str(), service.image.as_deref()?)))
                .collect();
            let image = |name| images.get(name).copied().unwrap_or("a built image");
            let text = format!("blue runs {}, green {}", image("blue"), image("green"));
            findings.push(Finding::fine(TOPIC, text));
        }
        findings
    }

    /// A problem if a color does not publish the port at which the deployer asks it.
    fn port(&self, color: Color, service: &ComposeService) -> Option<Finding> {
        let url = self.url(color);
        let port = listeners::local_port(url)?.to_string();
        let publishes = |published: &Option<String>| published.as_ref() == Some(&port);
        if service.ports.iter().any(|port| publishes(&port.published)) {
            return None;
        }
        Some(Finding::wrong(
            TOPIC,
            format!("{color} publishes no port {port}, where {color}.url ({url}) expects it"),
            format!("publish the port of the server in `ports` of {color}, or correct {color}.url"),
        ))
    }

    /// A problem if a color would run the same, whatever version is deployed.
    async fn version_is_used(&self, color: Color) -> Option<Finding> {
        let mut services = Vec::new();
        for version in VERSIONS {
            let image = self.image_to_start(color);
            let release = (color, version, image.as_deref());
            services.push(
                self.model(Some(release))
                    .await
                    .ok()?
                    .services
                    .remove(color.name())?,
            );
        }
        let [first, second] = <[ComposeService; 2]>::try_from(services).ok()?;
        let takes_image = !self.settings.image.is_empty();
        if takes_image || first.rest != second.rest || first.image != second.image {
            return None;
        }
        Some(Finding::wrong(
            TOPIC,
            format!(
                "{color} does not use {}, so every version that is deployed is the same",
                variable(color)
            ),
            format!(
                "use ${{{}}} in its environment, command, or image; or deploy images, with ${{{}}} as its image and `--image`",
                variable(color),
                image_variable(color)
            ),
        ))
    }

    pub(super) async fn stop_timeout_in_file(&self, color: Color) -> Option<Duration> {
        let mut model = self.model(None).await.ok()?;
        model
            .services
            .remove(color.name())
            .map(|service| service.stop_timeout())
    }
}
