//! `deployer switch COLOR`

use crate::{
    color::Color,
    commands::{
        output::{CommandError, CommandOutput},
        steps::{served_version, stop_leftover_shadow},
    },
    deployment::traffic_mover::TrafficMover,
    event::Reporter,
    ports::Ports,
    state::{history::Action, journal::Journal},
};

pub(super) async fn run(
    color: Color,
    journal: &Journal,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    stop_leftover_shadow(ports, reporter).await;
    let traffic_mover = TrafficMover {
        ports,
        journal,
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
    let unfinished = matches!(journal.last(), Ok(Some(last)) if !last.phase.is_end());
    if active != color || unfinished {
        let moved = traffic_mover.move_and_clean_up(Action::Switched, active, color, "by hand");
        moved.await.map_err(CommandError::halted)?;
    }
    Ok(CommandOutput::success(format!(
        "switched: {color} serves {version}"
    )))
}
