//! `deployer alert-test`

use crate::{
    adapters::alerts::{Alert, Alerts, Kind},
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    ports::Ports,
};

pub(super) async fn run(settings: &Settings, ports: &Ports) -> anyhow::Result<CommandOutput> {
    // A person waits for the result.
    let mut settings = settings.clone();
    settings.alerts.tries = 1;
    let alerts = Alerts::new(&settings, None)?;
    let names = alerts.names();
    if names.is_empty() {
        return Err(CommandError::usage(
            "no receiver of alerts: set alerts.webhook or alerts.slack, or DEPLOYER_ALERTS_WEBHOOK or DEPLOYER_ALERTS_SLACK in the environment",
        ));
    }
    alerts.send(&Alert {
        kind: Kind::Test,
        at: ports.clock.now(),
        color: None,
        text: "this is a test alert; nothing is wrong".to_owned(),
    });
    match alerts.finish().await {
        0 => Ok(CommandOutput::success(format!(
            "the test alert was delivered to {}",
            names.join(" and ")
        ))),
        failed => Err(anyhow::anyhow!(
            "{failed} of {} did not accept the alert",
            names.len()
        )),
    }
}
