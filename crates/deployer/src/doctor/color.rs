//! Whether a color runs, answers, and owns its port.

use crate::{
    color::Color,
    config::Settings,
    doctor::{finding::Finding, listening_ports, service_log},
    ports::{Ports, Service, ServiceState, Target},
};

pub(crate) async fn server(settings: &Settings, ports: &Ports, color: Color) -> Finding {
    let service = Service::Server(color);
    let answer = ports.probe.health(Target::Server(color)).await;
    let state = ports.fleet.inspect(service).await;
    let url = &settings.color(color).url;
    let wrong = |text: String, advice: String| Finding::wrong(color.name(), text, advice);
    let end_it = format!("end whatever listens at {url}, or give {color} another port");
    match (answer, state) {
        (Ok(health), Ok((ServiceState::Stopped(how), _))) => {
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
            let version = health.model_version.unwrap_or_else(|| "healthy".to_owned());
            Finding::fine(color.name(), format!("{version} at {url}"))
        }
        (Err(_), Ok((ServiceState::Stopped(how), _))) => match listening_ports::taken_by(url) {
            // Docker keeps the port of a paused container.
            Some(who) if !how.starts_with("container paused") => wrong(
                format!("it does not run ({how}), and its port is taken: {who}"),
                end_it,
            ),
            _ => wrong(
                format!(
                    "it does not run: {how}{}",
                    service_log::last_lines(ports, service).await
                ),
                format!(
                    "`deployer up` starts it; `deployer deploy` puts another release there, unless {color} is active"
                ),
            ),
        },
        (Err(error), Ok(_)) => wrong(
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
            "see to what else is wrong here first".to_owned(),
        ),
    }
}
