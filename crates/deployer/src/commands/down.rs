//! `deployer down`

use super::Done;
use crate::{adapters, color::Color, config::Settings, ports::Service};

pub(super) async fn run(settings: &Settings) -> anyhow::Result<Done> {
    let world = adapters::connect(settings)?;
    // The router first: it finishes what is in flight while both colors still answer.
    world.fleet.stop(Service::Router).await?;
    let [blue, green] = Color::BOTH.map(|color| world.fleet.stop(Service::Server(color)));
    let (blue, green) = tokio::join!(blue, green);
    blue?;
    green?;
    Ok(Done::fine("down"))
}
