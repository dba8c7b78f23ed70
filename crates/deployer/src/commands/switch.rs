//! `deployer switch COLOR`

use super::{Done, Ended, stop_leftover_copies, who};
use crate::{
    color::Color, event::Reporter, history::Deed, journal::Journal, ports::World,
    transfer::Transfer,
};

pub(super) async fn run(
    color: Color,
    journal: &Journal,
    world: &World,
    reporter: &dyn Reporter,
) -> anyhow::Result<Done> {
    stop_leftover_copies(world, reporter);
    let transfer = Transfer {
        world,
        journal,
        reporter,
    };
    // Where an interrupted command wanted traffic counts no more: a person says where it goes.
    transfer.finish(false).await.map_err(Ended::refused)?;
    let active = world.router.active().await.map_err(Ended::refused)?;
    let version = who(world, color).await.map_err(|error| {
        Ended::refused(format!(
            "{color} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    // Also where traffic stays: the next deployment must not take it away from where a person wants
    // it.
    let unfinished = matches!(journal.last(), Ok(Some(last)) if !last.phase.is_end());
    if active != color || unfinished {
        let moved = transfer.make(Deed::Switched, active, color, "by hand");
        moved.await.map_err(Ended::halted)?;
    }
    Ok(Done::fine(format!("switched: {color} serves {version}")))
}
