//! `deployer remove-router NAME`

use crate::{
    commands::output::{CommandError, CommandOutput},
    ports::Ports,
};

/// Removes a router that is gone, so that no deployment waits for it.
pub(super) async fn run(ports: &Ports, name: &str) -> anyhow::Result<CommandOutput> {
    ports
        .router
        .remove(name)
        .await
        .map_err(CommandError::refused)?;
    Ok(CommandOutput::success(format!(
        "router {name} is removed, and no deployment waits for it any more; if its nginx still runs, it keeps serving its color, so end it"
    )))
}
