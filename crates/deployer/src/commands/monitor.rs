//! `deployer monitor`

use std::{future::ready, net::SocketAddr, pin::pin};

use tokio::net::TcpListener;

use crate::{
    adapters::monitor_process,
    commands::output::{CommandError, CommandOutput},
    config::Settings,
    event::{Event, Reporter},
    examples::Examples,
    monitor::{self, Listeners},
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
    let listeners = Listeners {
        metrics: listen("metrics", settings.monitor.metrics).await?,
        page: listen("the page", settings.monitor.page).await?,
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
    monitor::run(settings, ports, reporter, &examples, listeners, stop).await?;
    Ok(CommandOutput::success(STOPPED))
}

/// Listens at `address`, if there is one, to serve `what`.
async fn listen(what: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(address).await.map_err(|error| {
        CommandError::usage(format!("cannot serve {what} at {address}: {error}"))
    })?;
    Ok(Some(listener))
}
