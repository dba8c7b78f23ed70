//! Whether each of several routers can take part in a switch.

use crate::{
    color::Color,
    config::Settings,
    doctor::{finding::Finding, router},
    ports::{Ports, RouterStatus, Target},
};

const TOPIC: &str = "routers";

pub(crate) async fn routers(settings: &Settings, ports: &Ports) -> Vec<Finding> {
    let statuses = match ports.router.routers().await {
        Ok(statuses) => statuses,
        Err(error) => {
            return vec![Finding::wrong(
                TOPIC,
                error.to_string(),
                "start `deployer store` and `deployer agent`, or correct routers.store and routers.token_file",
            )];
        }
    };
    let mut findings: Vec<Finding> = statuses.into_iter().map(state).collect();
    for color in Color::BOTH {
        findings.extend(reaches(ports, color).await);
    }
    findings.push(router::repeat(settings, ports).await);
    findings.extend(router::copies(settings));
    findings
}

fn state(status: RouterStatus) -> Finding {
    let RouterStatus {
        name,
        generation,
        active,
        problem,
        ..
    } = status;
    if let Some(problem) = problem {
        return Finding::wrong(
            TOPIC,
            format!("{name}: {problem}"),
            format!(
                "look at the log of its agent on {name}'s machine; a deployment is refused until it takes part, and a rollback is not. If {name} is gone for good, remove it from the store (docs/cluster.md, \"How do I add, stop, or remove a router?\")"
            ),
        );
    }
    let active = active.map_or_else(|| "no color".to_owned(), |active| active.to_string());
    let generation = generation.unwrap_or_default();
    Finding::fine(
        TOPIC,
        format!("{name} is open and sends requests to {active} (generation {generation})"),
    )
}

/// Whether every router reaches a color that is healthy; `None` if the color is not.
async fn reaches(ports: &Ports, color: Color) -> Option<Finding> {
    // Another topic reports a color that is down.
    ports.probe.health(Target::Server(color)).await.ok()?;
    let through = ports.probe.health(Target::ThroughRouter(color)).await;
    Some(match through {
        Ok(_) => Finding::fine(TOPIC, format!("every router reaches {color}")),
        Err(error) => Finding::wrong(
            TOPIC,
            format!("{color} is healthy, and not every router reaches it: {error}"),
            format!(
                "correct the address of {color} in nginx's files on that router's machine, or the network"
            ),
        ),
    })
}
