//! `deployer monitor`

use std::{future::ready, pin::pin};

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

const STOPPED: &str = "monitor stopped";

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
    let mut stop = pin!(shutdown());
    // The signals are handled from here on, so that `deployer down` never kills a monitor at work.
    tokio::select! {
        biased;
        () = &mut stop => return Ok(CommandOutput::success(STOPPED)),
        () = ready(()) => {}
    }
    if let Err(error) = monitor_process::register(&settings.state) {
        let text = error.to_string();
        reporter.report(&Event::Note { text });
    }
    monitor::run(settings, ports, reporter, &examples, listener, None, stop).await?;
    Ok(CommandOutput::success(STOPPED))
}
