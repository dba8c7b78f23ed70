//! `deployer down`

use crate::{
    color::Color,
    commands::output::CommandOutput,
    ports::{Ports, Service},
};

pub(super) async fn run(ports: &Ports) -> anyhow::Result<CommandOutput> {
    // The router first: it finishes the requests in flight while both colors still answer.
    ports.fleet.stop(Service::Router).await?;
    let [blue, green] = Color::BOTH.map(|color| ports.fleet.stop(Service::Server(color)));
    let (blue, green) = tokio::join!(blue, green);
    blue?;
    green?;
    Ok(CommandOutput::success("down"))
}
