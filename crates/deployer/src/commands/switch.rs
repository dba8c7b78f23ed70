//! `deployer switch COLOR`

use crate::{
    color::Color,
    commands::{
        output::{CommandError, CommandOutput},
        steps::{end_leftovers, served_version},
    },
    config::Settings,
    deployment::traffic_mover::TrafficMover,
    event::Reporter,
    ports::Ports,
    report::Reports,
    state::{action::Action, journal::Journal},
};

pub(super) async fn run(
    settings: &Settings,
    color: Color,
    journal: &Journal<'_>,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    end_leftovers(ports, reporter).await;
    let traffic_mover = TrafficMover {
        ports,
        journal,
        reports: &Reports::of(&settings.state),
        reporter,
    };
    // A person now says where traffic goes; an interrupted move no longer counts.
    traffic_mover
        .resume(false)
        .await
        .map_err(CommandError::refused)?;
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let version = served_version(ports, color).await.map_err(|error| {
        CommandError::refused(format!(
            "{color} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    // Recorded also if traffic stays, so that the next deployment does not move it away.
    let entries = journal.read().await.unwrap_or_default();
    let unfinished = entries.unfinished_deployment().is_some();
    if active != color || unfinished {
        let moved = traffic_mover.move_and_clean_up(Action::Switched, active, color, "by hand");
        if let Err(error) = moved.await {
            let stayed = active != color && ports.flags.active().await == Ok(active);
            return Err(if stayed {
                CommandError::refused(error)
            } else {
                CommandError::halted(error)
            });
        }
    }
    Ok(CommandOutput::success(format!(
        "switched: {color} serves {version}"
    )))
}
