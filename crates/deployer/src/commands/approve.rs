//! `deployer approve [ID]`

use crate::{
    cli::Decision,
    commands::{
        decision::live_deployment,
        output::{CommandError, CommandOutput},
    },
    config::Settings,
    event::{Event, Reporter},
    ports::Ports,
    state::{
        approval::Waiting,
        operator_request::{OperatorCommand, OperatorRequest},
    },
};

/// Approves what waits. `evidence` has the first digits of the digest that the user saw.
pub(super) async fn run(
    settings: &Settings,
    decision: &Decision,
    evidence: Option<&str>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let deployment = live_deployment(ports, decision.id.as_deref()).await?;
    let waiting = deployment.waiting()?;
    check_evidence(waiting, evidence).map_err(CommandError::refused)?;
    let Waiting {
        before,
        evidence,
        since,
        expires,
    } = waiting;
    let id = deployment.id();
    reporter.report(&Event::Note {
        text: format!(
            "deployment {id} waits for approval before {before} since {since:.0}, until {expires:.0}; approving the evidence {evidence}"
        ),
    });
    let request = OperatorRequest {
        evidence: Some(evidence.clone()),
        ..deployment.request(OperatorCommand::Approve, &decision.reason)
    };
    deployment.decide(settings, &request).await?;
    Ok(CommandOutput::success(format!(
        "approved: deployment {id} goes on to {before}"
    )))
}

/// Fails if the user saw other evidence than what waits.
fn check_evidence(waiting: &Waiting, seen: Option<&str>) -> Result<(), String> {
    match seen {
        Some(seen) if !waiting.evidence.starts_with(seen) => Err(format!(
            "the evidence is not {seen}: {} waits now; look at it, then approve again",
            waiting.evidence
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::deployment::phase::Phase;

    #[test]
    fn evidence_that_the_user_saw_must_be_what_waits() {
        let waiting = Waiting {
            before: Phase::Switched,
            evidence: "0123456789abcdef".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            expires: Timestamp::UNIX_EPOCH,
        };
        for (seen, passes) in [
            (None, true),
            (Some("01234567"), true),
            (Some("0123456789abcdef"), true),
            (Some("12345678"), false),
            (Some("0123456789abcdef00"), false),
        ] {
            assert_eq!(check_evidence(&waiting, seen).is_ok(), passes, "{seen:?}");
        }
    }
}
