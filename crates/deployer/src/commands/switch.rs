//! `deployer switch COLOR`

use super::{Done, Ended, move_traffic, who};
use crate::{
    adapters, color::Color, config::Settings, event::Reporter, history::Deed, journal::Journal,
};

pub(super) async fn run(
    settings: &Settings,
    color: Color,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<Done> {
    let world = adapters::connect(settings)?;
    let active = world.router.active().await.map_err(Ended::refused)?;
    let version = who(&world, color).await.map_err(|error| {
        Ended::refused(format!(
            "{color} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    if active != color {
        move_traffic(&world, journal, reporter, color, Deed::Switched, "by hand")
            .await
            .map_err(Ended::halted)?;
    }
    Ok(Done::fine(format!("switched: {color} serves {version}")))
}
