//! `deployer status`

mod reading;
mod table;

use std::{io::IsTerminal as _, time::Duration};

use crate::{
    commands::{
        output::{CommandOutput, print},
        status::reading::read_status,
    },
    config::Settings,
    ports::Ports,
    shutdown::shutdown,
};

pub(super) async fn run(settings: &Settings, ports: &Ports) -> anyhow::Result<CommandOutput> {
    let status = read_status(settings, ports).await;
    let mut object = serde_json::to_value(&status)?;
    object["event"] = "status".into();
    Ok(CommandOutput::success(table::render(&status)).with_object(object))
}

/// `deployer status --watch`: refreshes until a stop signal.
pub(super) async fn watch(
    settings: &Settings,
    ports: &Ports,
    json: bool,
) -> anyhow::Result<CommandOutput> {
    const PAUSE: Duration = Duration::from_secs(2);
    const HOME: &str = "\x1b[H\x1b[2J";

    let live = std::io::stdout().is_terminal();
    let show = async {
        loop {
            let done = run(settings, ports).await?;
            if json {
                print(&done.object.to_string());
            } else {
                let home = if live { HOME } else { "" };
                print(&format!(
                    "{home}{:.0}\n\n{}\n",
                    ports.clock.now(),
                    done.text
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::select! {
        shown = show => shown,
        () = shutdown() => Ok(CommandOutput::success("")),
    }
}
