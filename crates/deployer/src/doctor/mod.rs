//! `deployer doctor`: looks for problems of an installation, one file a topic. Changes nothing.

mod approval;
mod color;
pub mod finding;
mod leftovers;
mod listening_ports;
mod machine;
mod router;
mod routers;
mod service_log;
mod time_limits;

use crate::{
    color::Color, config::Settings, doctor::finding::Finding, examples::Examples, ports::Ports,
};

/// Examines every topic, in the order in which a person would repair them.
pub(crate) async fn examine(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    let mut findings = ports.fleet.diagnose().await;
    for color in Color::BOTH {
        findings.push(color::server(settings, ports, color).await);
    }
    let mut disks = vec![&settings.state];
    if settings.routers.are_used() {
        findings.extend(routers::routers(settings, ports).await);
    } else {
        findings.extend(router::router(settings, ports).await);
        disks.push(&settings.router.flags);
    }
    findings.extend(listening_ports::metrics(settings).await);
    for directory in disks {
        findings.push(machine::disk(directory, settings.min_free_megabytes));
    }
    findings.extend(time_limits::time_limits(settings, ports).await);
    findings.push(inputs(settings));
    findings.extend(approval::approval(settings));
    findings.extend(leftovers::leftovers(settings, ports).await);
    findings
}

/// Examines only what files say: the settings, the test inputs, and the files of the fleet and the router. Asks no engine and
/// no server.
pub(crate) async fn examine_offline(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    let mut findings = ports.fleet.diagnose_offline().await;
    findings.extend(router::copies(settings));
    findings.extend(time_limits::of_configuration(settings, ports).await);
    findings.push(inputs(settings));
    findings.extend(approval::approval(settings));
    findings
}

fn inputs(settings: &Settings) -> Finding {
    match Examples::read(settings) {
        Ok(examples) => Finding::fine("inputs", format!("{} test inputs", examples.golden.len())),
        Err(error) => Finding::wrong(
            "inputs",
            error.to_string(),
            "set probe.inputs to a JSONL file of test inputs",
        ),
    }
}
