//! `deployer reject [ID]`

use crate::{
    cli::Decision,
    commands::{abort, decision::live_deployment, output::CommandOutput},
    config::Settings,
    event::Reporter,
    ports::Ports,
    state::operator_request::OperatorCommand,
};

/// Ends the deployment that waits for approval.
pub(super) async fn run(
    settings: &Settings,
    decision: &Decision,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let deployment = live_deployment(ports, decision.id.as_deref()).await?;
    deployment.waiting()?;
    let request = deployment.request(OperatorCommand::Reject, &decision.reason);
    abort::stop(settings, request, &deployment.holder, ports, reporter).await
}
