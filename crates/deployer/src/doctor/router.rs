//! Whether the router runs, owns its ports, sees the flags, and receives the clients' requests.

use crate::{
    config::{GateName, Settings},
    deployment::preflight,
    doctor::{finding::Finding, listening_ports, machine, service_log},
    ports::{Ports, Repeat, Service, ServiceState},
};

const TOPIC: &str = "router";

pub(crate) async fn router(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    // A router that does not run cannot be checked further.
    match ports.fleet.inspect(Service::Router).await {
        Ok((ServiceState::Stopped(how), _)) => return vec![stopped(settings, ports, &how).await],
        // Docker keeps the ports of a paused container.
        Ok((ServiceState::Paused(how), _)) => return vec![does_not_run(ports, &how).await],
        Ok((ServiceState::Running | ServiceState::Unmanaged, _)) | Err(_) => {}
    }
    let router = &settings.router;
    let mut findings = vec![
        listening_ports::of_the_router(settings, &router.url, "clients").await,
        listening_ports::of_the_router(settings, &router.control, "deployers").await,
        flags(settings, ports).await,
        clients(settings, ports).await,
        repeat(settings, ports).await,
    ];
    findings.extend(copies(settings));
    findings.push(machine::clock(settings).await);
    findings
}

async fn stopped(settings: &Settings, ports: &Ports, how: &str) -> Finding {
    let taken: Vec<String> = [&settings.router.url, &settings.router.control]
        .into_iter()
        .filter_map(|url| Some(format!("{url}: {}", listening_ports::taken_by(url)?)))
        .collect();
    if taken.is_empty() {
        return does_not_run(ports, how).await;
    }
    Finding::wrong(
        TOPIC,
        format!(
            "it does not run ({how}), and its port is taken: {}",
            taken.join("; ")
        ),
        "stop the program that listens there, then `deployer up`; or give the router other ports (ROUTER_PORT and CONTROL_PORT in .env for Compose, nginx/addresses.conf otherwise), and say so in router.url and router.control",
    )
}

async fn does_not_run(ports: &Ports, how: &str) -> Finding {
    let words = service_log::last_lines(ports, Service::Router).await;
    Finding::wrong(
        TOPIC,
        format!("it does not run: {how}{words}"),
        "fix what its last log lines say; `deployer up` starts it",
    )
}

/// Whether the router sees the flags that this machine sets.
async fn flags(settings: &Settings, ports: &Ports) -> Finding {
    const TOPIC: &str = "flags";

    match ports.router.check_flags().await {
        Ok(()) => Finding::fine(
            TOPIC,
            format!("the router sees {}", settings.router.flags.display()),
        ),
        Err(error) => Finding::wrong(
            TOPIC,
            error.to_string(),
            "start nginx with the directory that router.flags names, and let its workers search it (chmod a+x)",
        ),
    }
}

/// Whether the router repeats the requests that the settings allow.
pub(super) async fn repeat(settings: &Settings, ports: &Ports) -> Finding {
    let wanted = settings.service.repeat;
    match ports.router.repeat().await {
        Ok(repeat) if repeat == wanted => Finding::fine(
            TOPIC,
            format!("it repeats failed requests as service.repeat says: {repeat}"),
        ),
        Ok(repeat) => Finding::wrong(
            TOPIC,
            format!("it repeats failed requests: {repeat}; service.repeat is {wanted}"),
            "correct service.repeat, or give the router the other file (nginx/repeat.conf says how) and restart it",
        ),
        Err(error) => Finding::wrong(
            TOPIC,
            error.to_string(),
            "start the router with the files of this version",
        ),
    }
}

/// A problem if clients' requests are copied although they must not be repeated.
pub(super) fn copies(settings: &Settings) -> Option<Finding> {
    let copied_by = [
        (
            "gates.run has `shadow`",
            settings.gates.run.contains(&GateName::Shadow),
        ),
        ("bake.ask_previous is true", settings.bake.ask_previous),
    ];
    let copied_by: Vec<&str> = copied_by
        .into_iter()
        .filter_map(|(setting, copies)| copies.then_some(setting))
        .collect();
    if settings.service.repeat == Repeat::Always || copied_by.is_empty() {
        return None;
    }
    Some(Finding::wrong(
        TOPIC,
        format!(
            "service.repeat is unless_sent, but {}: both colors then get a client's request",
            copied_by.join(" and ")
        ),
        "remove `shadow` from gates.run, and set bake.ask_previous = false",
    ))
}

/// Whether clients' requests reach the router at the control port.
async fn clients(settings: &Settings, ports: &Ports) -> Finding {
    let active = match ports.router.active().await {
        Ok(active) => active,
        Err(error) => {
            let words = service_log::last_lines(ports, Service::Router).await;
            let advice =
                "fix what its last log lines say; `deployer down` and `deployer up` restart it";
            return Finding::wrong(TOPIC, format!("{error}{words}"), advice);
        }
    };
    match preflight::check_same_router(settings, ports, active).await {
        Ok(()) => Finding::fine(TOPIC, format!("{} goes to {active}", settings.router.url)),
        Err(error) => Finding::wrong(
            TOPIC,
            error,
            "correct router.url and router.control, or repair the active color",
        ),
    }
}
