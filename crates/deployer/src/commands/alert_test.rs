//! `deployer alert-test`

use crate::{
    adapters::notify::Notifier,
    commands::output::{CommandError, CommandOutput},
    config::Settings,
};

pub(super) async fn run(settings: &Settings) -> anyhow::Result<CommandOutput> {
    let notifier = Notifier::new(settings);
    let names = notifier.names();
    if names.is_empty() {
        return Err(CommandError::usage(
            "no receiver of alerts: set alerts.webhook or alerts.slack, or DEPLOYER_ALERTS_WEBHOOK or DEPLOYER_ALERTS_SLACK in the environment",
        ));
    }
    // A person waits for the result, so nothing is sent again.
    let failed = notifier.test().await?;
    if failed.is_empty() {
        return Ok(CommandOutput::success(format!(
            "the test alert was delivered to {}",
            names.join(" and ")
        )));
    }
    let problems: Vec<String> = failed
        .iter()
        .map(|(name, problem)| format!("alerts.{name} did not accept the test alert: {problem}"))
        .collect();
    Err(anyhow::anyhow!("{}", problems.join("; ")))
}
