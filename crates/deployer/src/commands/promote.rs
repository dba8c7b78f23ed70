//! `deployer promote [ID]`

use jiff::Timestamp;

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
    state::operator_request::{OperatorCommand, OperatorRequest},
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
            "deployment {id} does not bake: it is {phase}"
        )));
    }
    reporter.report(&Event::Note {
        text: format!("asking {} to end the bake", deployment.holder),
    });
    let request = OperatorRequest {
        deployment: Some(id.to_owned()),
        ..OperatorRequest::new(
            OperatorCommand::Promote,
            Timestamp::now(),
            Some(decision.reason.clone()),
        )
    };
    deployment.decide(settings, &request).await?;
    let next = if settings.approval.is_needed(ApprovalPoint::Promoted) {
        "it asks for approval of the promotion now"
    } else {
        "its candidate is promoted"
    };
    Ok(CommandOutput::success(format!(
        "deployment {id} bakes no longer: {next}"
    )))
}
