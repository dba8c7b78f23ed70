//! `deployer down`

use super::Done;
use crate::{
    color::Color,
    ports::{Service, World},
};

pub(super) async fn run(world: &World) -> anyhow::Result<Done> {
    // The router first: it finishes what is in flight while both colors still answer.
    world.fleet.stop(Service::Router).await?;
    let [blue, green] = Color::BOTH.map(|color| world.fleet.stop(Service::Server(color)));
    let (blue, green) = tokio::join!(blue, green);
    blue?;
    green?;
    Ok(Done::fine("down"))
}
