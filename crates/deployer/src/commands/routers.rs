//! `deployer agent` and `deployer store`, and the processes that an agent starts.

use crate::{
    agent,
    cli::Command,
    commands::output::{CommandError, CommandOutput},
    store,
};

/// Runs one of these commands, which have no settings file.
pub(super) async fn run(command: &Command) -> anyhow::Result<CommandOutput> {
    let ended = match command {
        Command::Agent(arguments) => Box::pin(agent::run(arguments)).await,
        Command::Store(arguments) => Box::pin(store::run(arguments)).await,
        Command::AgentFence(arguments) => agent::run_fence(arguments).map_err(Into::into),
        Command::AgentNginx(arguments) => Err(agent::become_nginx(arguments).into()),
        _ => unreachable!("the caller chose these commands"),
    };
    match ended {
        Ok(()) => Ok(CommandOutput::success(format!("{command} stopped"))),
        Err(error) => Err(CommandError::usage(format!("{error:#}"))),
    }
}
