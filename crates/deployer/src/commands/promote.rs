//! `deployer promote [ID]`

use crate::{
    cli::Decision,
    commands::{
        decision::live_deployment,
        output::{CommandError, CommandOutput},
    },
    config::{ApprovalPoint, Settings},
    deployment::phase::Phase,
    event::{Event, Reporter},
    ports::Ports,
    state::operator_request::OperatorCommand,
};

/// Ends a bake early. The deployer at work declines that if the candidate is failing.
pub(super) async fn run(
    settings: &Settings,
    decision: &Decision,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let deployment = live_deployment(ports, decision.id.as_deref()).await?;
    let (id, phase) = (deployment.id(), deployment.entry.phase);
    if phase != Phase::Switched {
        return Err(CommandError::refused(format!(
            "deployment {id} is not in its bake: its phase is {phase}"
        )));
    }
    reporter.report(&Event::Note {
        text: format!("asking {} to end the bake", deployment.holder),
    });
    let request = deployment.request(OperatorCommand::Promote, &decision.reason);
    deployment.decide(settings, &request).await?;
    let next = if settings.approval.is_needed(ApprovalPoint::Promoted) {
        "it asks for approval of the promotion now"
    } else {
        "its candidate is promoted"
    };
    Ok(CommandOutput::success(format!(
        "the bake of deployment {id} ended: {next}"
    )))
}
