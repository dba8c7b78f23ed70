//! Whether the router runs, is alone on its ports, sees the flags, and has the clients.

use super::{last_words, machine, ports};
use crate::{
    config::Settings,
    diagnosis::Finding,
    ports::{Service, State, World},
    preflight,
};

const TOPIC: &str = "router";

pub(super) async fn router(settings: &Settings, world: &World) -> Vec<Finding> {
    if let Ok((State::Stopped(how), _)) = world.fleet.inspect(Service::Router).await {
        // Nothing is to be learned from a router that does not run.
        return vec![stopped(settings, world, &how).await];
    }
    let router = &settings.router;
    vec![
        ports::of_the_router(settings, &router.url, "clients").await,
        ports::of_the_router(settings, &router.control, "deployers").await,
        flags(settings, world).await,
        clients(settings, world).await,
        machine::clock(settings).await,
    ]
}

async fn stopped(settings: &Settings, world: &World, how: &str) -> Finding {
    let taken: Vec<String> = [&settings.router.url, &settings.router.control]
        .into_iter()
        .filter_map(|url| Some(format!("{url}: {}", ports::taken_by(url)?)))
        .collect();
    // Docker keeps the ports of a container that is paused.
    if taken.is_empty() || how.starts_with("container paused") {
        let words = last_words(world, Service::Router).await;
        return Finding::wrong(
            TOPIC,
            format!("it does not run: {how}{words}"),
            "see to what it said last; `deployer up` starts it",
        );
    }
    Finding::wrong(
        TOPIC,
        format!(
            "it does not run ({how}), and its port is taken: {}",
            taken.join("; ")
        ),
        "end whatever listens there, then `deployer up`; or give the router other ports (ROUTER_PORT and CONTROL_PORT in .env for Compose, nginx/addresses.conf otherwise), and say so in router.url and router.control",
    )
}

/// Whether the router sees the flags that are set here.
async fn flags(settings: &Settings, world: &World) -> Finding {
    const TOPIC: &str = "flags";

    match world.router.sees_flags().await {
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

/// Whether clients come in through the router that is asked.
async fn clients(settings: &Settings, world: &World) -> Finding {
    let active = match world.router.active().await {
        Ok(active) => active,
        Err(error) => {
            let words = last_words(world, Service::Router).await;
            let advice =
                "see to what it said last; `deployer down` and `deployer up` start it anew";
            return Finding::wrong(TOPIC, format!("{error}{words}"), advice);
        }
    };
    match preflight::one_router(settings, world, active).await {
        Ok(()) => Finding::fine(TOPIC, format!("{} goes to {active}", settings.router.url)),
        Err(error) => Finding::wrong(
            TOPIC,
            error,
            "correct router.url and router.control, or see to the active color",
        ),
    }
}
