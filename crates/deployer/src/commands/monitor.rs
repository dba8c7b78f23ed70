//! `deployer monitor`

use tokio::net::TcpListener;

use crate::{
    adapters::monitor_process,
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    event::{Event, Reporter},
    examples::Examples,
    monitor,
    ports::Ports,
    shutdown::shutdown,
};

pub(super) async fn run(
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let examples = Examples::read(settings).map_err(CommandError::usage)?;
    let listener = match settings.monitor.metrics {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            CommandError::usage(format!("cannot serve metrics at {address}: {error}"))
        })?),
        None => None,
    };
    if let Err(error) = monitor_process::register(&settings.state) {
        let text = error.to_string();
        reporter.report(&Event::Note { text });
    }
    monitor::run(settings, ports, reporter, &examples, listener, shutdown()).await?;
    Ok(CommandOutput::success("monitor stopped"))
}
