//! Whether a color runs, answers, and owns its port.

use crate::{
    color::Color,
    config::Settings,
    doctor::{finding::Finding, listening_ports, service_log},
    ports::{Ports, Service, ServiceState, Target},
    promoted::Differences,
};

pub(crate) async fn server(settings: &Settings, ports: &Ports, color: Color) -> Finding {
    let service = Service::Server(color);
    let answer = ports.probe.health(Target::Server(color)).await;
    let state = ports.fleet.inspect(service).await;
    let url = &settings.color(color).url;
    let wrong = |text: String, advice: String| Finding::wrong(color.name(), text, advice);
    let end_it = format!("stop the program that listens at {url}, or give {color} another port");
    match (answer, state) {
        (Ok(health), Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _))) => {
            let version = health.model_version;
            let version = version.unwrap_or_else(|| "another release".to_owned());
            let who = listening_ports::taken_by(url)
                .unwrap_or_else(|| "a process that this user cannot see".to_owned());
            wrong(
                format!("it was stopped ({how}), and yet {version} answers at {url}: {who}"),
                end_it,
            )
        }
        (Ok(health), _) => {
            let differences = Differences::find(settings, ports, color, Some(&health)).await;
            if let Some(text) = differences.server {
                let advice = "find out who started that server; `deployer deploy` puts a tested release there";
                return wrong(text, advice.to_owned());
            }
            let version = health.model_version.unwrap_or_else(|| "healthy".to_owned());
            Finding::fine(color.name(), format!("{version} at {url}"))
        }
        (Err(_), Ok((ServiceState::Stopped(how), _))) => match listening_ports::taken_by(url) {
            Some(who) => wrong(
                format!("it does not run ({how}), and its port is taken: {who}"),
                end_it,
            ),
            None => does_not_run(ports, color, &how).await,
        },
        // Docker keeps the port of a paused container.
        (Err(_), Ok((ServiceState::Paused(how), _))) => does_not_run(ports, color, &how).await,
        (Err(error), Ok((ServiceState::Running | ServiceState::Unmanaged, _))) => wrong(
            format!(
                "it runs and is not healthy: {error}{}",
                service_log::last_lines(ports, service).await
            ),
            format!(
                "if {color} is active, `deployer rollback`; otherwise deploy another release there"
            ),
        ),
        // An earlier finding says why the state is unknown.
        (Err(error), Err(_)) => wrong(
            format!("it is not healthy, and whether it runs is not known: {error}"),
            "solve the other problems of this list first".to_owned(),
        ),
    }
}

async fn does_not_run(ports: &Ports, color: Color, how: &str) -> Finding {
    let words = service_log::last_lines(ports, Service::Server(color)).await;
    Finding::wrong(
        color.name(),
        format!("it does not run: {how}{words}"),
        format!(
            "`deployer up` starts it; `deployer deploy` puts another release there, unless {color} is active"
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, path::Path};

    use async_trait::async_trait;

    use super::*;
    use crate::{
        adapters, config,
        ports::{Fleet, FleetDiagnosis, PortError},
    };

    /// A fleet whose services are all in this state.
    struct Services(ServiceState);

    #[async_trait]
    impl Fleet for Services {
        async fn start_router(&self) -> Result<(), PortError> {
            Ok(())
        }

        async fn start(&self, _color: Color, _version: &str) -> Result<(), PortError> {
            Ok(())
        }

        async fn stop(&self, _service: Service) -> Result<(), PortError> {
            Ok(())
        }

        async fn inspect(
            &self,
            _service: Service,
        ) -> Result<(ServiceState, Option<String>), PortError> {
            Ok((self.0.clone(), None))
        }

        async fn prune(&self, _keep: usize) -> Result<(), PortError> {
            Ok(())
        }
    }

    #[async_trait]
    impl FleetDiagnosis for Services {
        async fn diagnose(&self) -> Vec<Finding> {
            Vec::new()
        }

        async fn logs(&self, _service: Service, _lines: usize) -> Vec<String> {
            Vec::new()
        }
    }

    /// Examines blue in this state, while a silent process listens on its port.
    async fn blue_with_taken_port(state: ServiceState) -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deployer.toml");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let text = format!(
            "probe.timeout = \"50ms\"\nblue.url = \"http://{}\"\n",
            listener.local_addr().unwrap()
        );
        std::fs::write(&file, text).unwrap();
        let settings = config::load(Some(Path::new(&file)), &[]).unwrap();
        let mut ports = adapters::connect(&settings).unwrap();
        ports.fleet = Box::new(Services(state));
        server(&settings, &ports, Color::Blue).await.text
    }

    #[tokio::test]
    async fn port_of_stopped_color_is_taken_by_another_process() {
        let text = blue_with_taken_port(ServiceState::Stopped("exit status: 3".to_owned())).await;
        let begin = "it does not run (exit status: 3), and its port is taken: ";
        assert!(text.starts_with(begin), "{text}");
    }

    #[tokio::test]
    async fn paused_color_keeps_its_own_port() {
        let text = blue_with_taken_port(ServiceState::Paused("container paused".to_owned())).await;
        assert_eq!(text, "it does not run: container paused");
    }
}
